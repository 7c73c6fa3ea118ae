// The theme's buttons that open a part of the sidebar have no name for screen readers.
for (const button of document.querySelectorAll("details > summary")) {
  const section = button.closest("li")?.querySelector("a")?.textContent.trim();
  if (!button.textContent.trim() && section) button.setAttribute("aria-label", `Pages of ${section}`);
}
