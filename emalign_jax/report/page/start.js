// Each table of the page: its chart, list and detail together.

async function explore(document_, number) {
  const place = document.getElementById(`rows-${number}`);
  try {
    const data = await Data.of(document_);
    data.number = number;
    const detail = new Detail(data);
    const open = (row, opener) => detail.show(row, list.rows, opener);
    const chart = new Chart(data, open);
    const list = new List(data, open, (rows) => chart.update(rows));
    place.append(chart.element, list.element);
  } catch (error) { // a browser that is too old: the tables and figures are there without it
    place.append(make("p", {}, `This part needs a newer browser (${error.message}).`));
  }
  place.hidden = false;
}

const started = JSON.parse(document.getElementById("data").textContent).map(explore);
Promise.all(started).then(() => document.documentElement.classList.add("ready"));
