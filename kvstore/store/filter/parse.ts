import type { Filter, Leaf, Pattern } from './ast.ts';

/** Deeper nesting than any honest filter has; keeps recursion off the stack's end. */
const maxDepth = 128;
const maxLength = 256 * 1024;

export class FilterSyntaxError extends Error {}

/**
 * Parses a filter. Escapes are RFC 4515's (`\2a`, bytes of UTF-8) and Moray's (`\*`, the character itself).
 * Parentheses around the whole may be left out.
 * @throws FilterSyntaxError
 */
export function parseFilter(text: string): Filter {
  if (text.length === 0) throw new FilterSyntaxError('it is empty');
  if (text.length > maxLength) throw new FilterSyntaxError(`it is longer than ${maxLength}`);
  const parser = new Parser(text.startsWith('(') ? text : `(${text})`);
  return parser.parse();
}

/** Reads one filter from the left to the right; `#at` is always the next character to be read. */
class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Filter {
    const filter = this.#filter(0);
    if (this.#at < this.#text.length) throw new FilterSyntaxError('unbalanced parens');
    return filter;
  }

  #filter(depth: number): Filter {
    if (depth > maxDepth) throw new FilterSyntaxError('it is nested too deeply');
    // `!` takes its filter without parentheses of its own as well: (&!(a=1)(b=2))
    if (this.#peek() === '!') {
      this.#at++;
      return { type: 'not', filter: this.#filter(depth + 1) };
    }
    this.#expect('(');
    const filter = this.#inside(depth);
    this.#expect(')');
    return filter;
  }

  #inside(depth: number): Filter {
    switch (this.#peek()) {
      case '&':
      case '|': {
        const type = this.#peek() === '&' ? 'and' : 'or';
        this.#at++;
        const filters: Filter[] = [];
        do filters.push(this.#filter(depth + 1));
        while (this.#peek() === '(' || this.#peek() === '!');
        return { type, filters };
      }
      case '!':
        this.#at++;
        return { type: 'not', filter: this.#filter(depth + 1) };
      default:
        return parseLeaf(this.#leafText());
    }
  }

  #leafText(): string {
    const start = this.#at;
    while (this.#at < this.#text.length && this.#peek() !== ')') this.#at += this.#peek() === '\\' ? 2 : 1;
    return this.#text.slice(start, this.#at);
  }

  #peek(): string | undefined {
    return this.#text[this.#at];
  }

  #expect(character: string): void {
    if (this.#peek() !== character) {
      const found = this.#peek();
      throw new FilterSyntaxError(
        found === undefined ? 'unbalanced parens' : `expected '${character}', but found '${found}'`,
      );
    }
    this.#at++;
  }
}

function parseLeaf(text: string): Leaf {
  const match = /^([-_a-zA-Z0-9]+)(:|[~<>]?=)/.exec(text);
  const [whole, attribute, operator] = match ?? [];
  if (whole === undefined || attribute === undefined) throw new FilterSyntaxError('invalid expression');
  const rest = text.slice(whole.length);
  switch (operator) {
    case '=': {
      if (rest === '*') return { type: 'present', attribute };
      const pattern = parsePattern(rest);
      return pattern === undefined
        ? { type: 'equal', attribute, value: unescaped(rest) }
        : { type: 'substring', attribute, pattern };
    }
    case '>=':
      return { type: 'ge', attribute, value: unescaped(rest) };
    case '<=':
      return { type: 'le', attribute, value: unescaped(rest) };
    case '~=':
      return { type: 'approx', attribute, value: unescaped(rest) };
    default: {
      const [all, rule] = /^([^:=]*):=/.exec(rest) ?? [];
      if (all === undefined || rule === undefined) throw new FilterSyntaxError('missing := in ext filter');
      const value = rest.slice(all.length);
      return { type: 'ext', attribute, rule, value: unescaped(value), pattern: parsePattern(value) };
    }
  }
}

/** The value's parts between unescaped asterisks, or undefined where it has none. */
function parsePattern(value: string): Pattern | undefined {
  const parts: string[] = [];
  let start = 0;
  for (let i = 0; i < value.length; i++) {
    if (value[i] === '\\') i++;
    else if (value[i] === '*') {
      parts.push(value.slice(start, i));
      start = i + 1;
    }
  }
  const [initial, ...any] = parts.map(unescaped);
  if (initial === undefined) return undefined;
  return { initial, any, final: unescaped(value.slice(start)) };
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

function unescaped(value: string): string {
  if (value.includes('\0')) throw new FilterSyntaxError('a value may not contain NUL');
  return value.replace(/(?:\\[0-9a-fA-F]{2})+|\\[\s\S]?|\(/g, (found) => {
    if (found === '(') throw new FilterSyntaxError("illegal unescaped char: '('");
    if (found.length > 2) return decodeBytes(found);
    const escaped = found[1];
    if (escaped === undefined || !'()*\\='.includes(escaped)) {
      throw new FilterSyntaxError(`invalid escape sequence: "${found}"`);
    }
    return escaped;
  });
}

/** Consecutive hexadecimal escapes are the bytes of UTF-8 text. */
function decodeBytes(escapes: string): string {
  const bytes = Buffer.from(escapes.replaceAll('\\', ''), 'hex');
  if (bytes.includes(0)) throw new FilterSyntaxError('a value may not contain NUL');
  try {
    return utf8.decode(bytes);
  } catch {
    throw new FilterSyntaxError(`${escapes} is not UTF-8`);
  }
}
