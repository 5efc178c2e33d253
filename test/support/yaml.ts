/**
 * Reads the YAML of our documents: block maps and lists, `[a, b]` of plain words, quoted and plain scalars, comments,
 * and `---` between documents. Anything else is an error, so a document stays within what a reader of it can be sure
 * of.
 */
export type Yaml = string | number | boolean | Yaml[] | { [key: string]: Yaml };

interface Line {
  readonly indent: number;
  readonly text: string;
  readonly number: number;
}

/** @throws Error with the line */
export function parseYaml(source: string): Yaml[] {
  const documents: Line[][] = [[]];
  source.split("\n").forEach((raw, at) => {
    const text = raw.replace(/(^|\s)#.*$/, "").trimEnd();
    if (text === "---") documents.push([]);
    else if (text.trim() !== "")
      documents.at(-1)!.push({ indent: text.length - text.trimStart().length, text: text.trimStart(), number: at + 1 });
  });
  return documents.map((lines) => new Reader(lines).document());
}

class Reader {
  private readonly lines: Line[];

  constructor(lines: Line[]) {
    this.lines = [...lines];
  }

  document(): Yaml {
    const value = this.block(0);
    if (this.lines.length > 0) throw problem(this.lines[0], "it is indented less than what it stands in");
    return value;
  }

  private block(indent: number): Yaml {
    const first = this.lines[0];
    if (first?.indent !== indent) throw problem(first, `expected an indentation of ${indent}`);
    return /^- /.test(first.text) ? this.list(indent) : this.map(indent);
  }

  private list(indent: number): Yaml[] {
    const items: Yaml[] = [];
    for (let line = this.lines[0]; line?.indent === indent && line.text.startsWith("- "); line = this.lines[0]) {
      const text = line.text.slice(2);
      if (/^[\w.-]+:( |$)/.test(text)) {
        // A map that begins behind the dash.
        this.lines[0] = { ...line, indent: indent + 2, text };
        items.push(this.map(indent + 2));
      } else {
        this.lines.shift();
        items.push(scalar(line, text));
      }
    }
    return items;
  }

  private map(indent: number): Yaml {
    const map: { [key: string]: Yaml } = {};
    for (let line = this.lines[0]; line?.indent === indent; line = this.lines[0]) {
      const [, key, text] = /^([\w.-]+):(?: +(.*))?$/.exec(line.text) ?? [];
      if (key === undefined) throw problem(line, "expected a key");
      if (key in map) throw problem(line, `the key ${key} is there twice`);
      this.lines.shift();
      const next = this.lines[0];
      if (text !== undefined) map[key] = scalar(line, text);
      else if (next !== undefined && next.indent > indent) map[key] = this.block(next.indent);
      else throw problem(line, `the key ${key} has no value`);
    }
    return map;
  }
}

function scalar(line: Line, text: string): Yaml {
  const list = /^\[(.*)\]$/.exec(text);
  if (list !== null) return (list[1].match(/"[^"]*"|[^,]+/g) ?? []).map((item) => scalar(line, item.trim()));
  const quoted = /^"([^"\\]*)"$/.exec(text);
  if (quoted !== null) return quoted[1];
  if (/^["'&*!|>{}[\]%@`]/.test(text) || /: /.test(text))
    throw problem(line, `this form of a value is not understood: ${text}`);
  if (/^(true|false)$/.test(text)) return text === "true";
  return /^\d+$/.test(text) ? Number(text) : text;
}

function problem(line: Line | undefined, text: string): Error {
  return new Error(line === undefined ? "YAML ends too early" : `line ${line.number} of YAML, "${line.text}": ${text}`);
}
