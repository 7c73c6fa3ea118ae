// The rows of a table, and arrays of details: unpacked from base64, gzip and planes of bytes.

async function unpack({ shape, kind, data }) {
  const text = atob(data);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const kinds = { f4: Float32Array, f8: Float64Array, u4: Uint32Array };
  const width = kinds[kind].BYTES_PER_ELEMENT;
  const count = planes.length / width;
  const mixed = new Uint8Array(planes.length);
  for (let plane = 0; plane < width; plane++) {
    for (let k = 0; k < count; k++) mixed[k * width + plane] = planes[plane * count + k];
  }
  return { shape, values: new kinds[kind](mixed.buffer) };
}

// A column: what a row has there as a number to sort by, and as text.
class Column {
  constructor(entry, values) {
    Object.assign(this, entry);
    this.values = values;
    this.isText = entry.kind === "text";
    this.head = entry.unit && entry.unit !== "share" ? `${entry.label} (${entry.unit})` : entry.label;
    if (this.isText) {
      const order = entry.words.map((_, k) => k).sort((a, b) => entry.words[a].localeCompare(entry.words[b], "en"));
      this.rank = new Float64Array(order.length);
      order.forEach((word, place) => { this.rank[word] = place; });
    }
  }

  number(row) {
    return this.isText ? this.rank[this.values[row]] : this.values[row];
  }

  text(row) {
    const value = this.values[row];
    if (this.isText) return this.words[value];
    if (this.kind === "flag" && !Number.isNaN(value)) return value ? "yes" : "no";
    if (this.kind === "whole" && !Number.isNaN(value)) return String(value);
    if (this.axis && Number.isFinite(value)) return String(Number(value.toPrecision(6)));
    return shown(value, this.unit);
  }

  // The different values, ascending, or null if there are more than `most`.
  different(most) {
    const found = new Map();
    for (let row = 0; row < this.values.length && found.size <= most; row++) {
      if (!found.has(this.values[row])) found.set(this.values[row], row);
    }
    if (found.size > most) return null;
    return [...found.values()].sort((a, b) => this.number(a) - this.number(b)).map((row) => ({
      value: this.number(row), text: this.text(row),
    }));
  }
}

class Data {
  static async of(document) {
    const unpacked = await Promise.all(document.columns.map((column) => unpack(column.data)));
    return new Data(document, document.columns.map((column, k) => new Column(column, unpacked[k].values)));
  }

  constructor(document, columns) {
    Object.assign(this, document);
    this.columns = columns;
    columns.forEach((column) => { column.axis = this.filters.includes(column.name); });
    this.byName = new Map(columns.map((column) => [column.name, column]));
    this.unpacked = new Map();
  }

  column(name) {
    return this.byName.get(name);
  }

  text(name, row) {
    return this.byName.has(name) ? this.column(name).text(row) : "";
  }

  // What one row is called.
  name(row) {
    const named = this.listed.filter((name) => ["text", "whole"].includes(this.column(name).kind)
      && !name.startsWith("result"));
    const words = named.slice(0, 5).map((name) => {
      const column = this.column(name);
      return column.isText ? column.text(row) : `${column.label} ${column.text(row)}`;
    });
    return words.join(", ") || `${this.what} ${row + 1}`;
  }

  // The part of an array that belongs to one index of its first axis, {shape, values}; null if there is none.
  async part(name, index, from = this.details) {
    if (!from || !from[name]) return null;
    if (!this.unpacked.has(from[name])) this.unpacked.set(from[name], await unpack(from[name]));
    const { shape, values } = this.unpacked.get(from[name]);
    if (index < 0 || index >= shape[0]) return null;
    const size = shape.slice(1).reduce((a, b) => a * b, 1);
    return { shape: shape.slice(1), values: values.subarray(index * size, (index + 1) * size) };
  }
}
