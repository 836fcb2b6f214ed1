import { connect, type Socket } from 'node:net';
import { now } from '../feed/clock.ts';

/** What the parent asks for; each is answered once it is done. */
export type Order =
  /** Opens so many readers more: answered with when each has its first line. */
  | { readonly open: number; readonly url: string; readonly websocket: boolean }
  /** From now on a line with this text is waited for; answered at once. */
  | { readonly mark: string }
  /** Answered with when each reader had the line, once all have it. */
  | { readonly times: true }
  /** Whoever loses its connection goes there, from its last cursor. */
  | { readonly other: string };

/** Connections that are opened at a time: a listening socket queues no more than 511. */
const atOnce = 100;
/** Within this time of losing their connection readers come back, in ms. */
const pauseMs = 500;
const pong = Buffer.from([0x8a, 0x80, 0, 0, 0, 0]);
/** Where every socket's bytes arrive: a reader costs a read and a search, and nothing that Node's streams would add. */
const buffer = Buffer.allocUnsafe(256 * 1024);

let mark = '';
let other: string | undefined;
let expected = 0;
let times: number[] = [];
let told: (times: number[]) => void = () => undefined;
let allTold: Promise<number[]> = Promise.resolve([]);

/** One reader. What it has read is looked at once its last line is whole. */
class Reader {
  readonly #websocket: boolean;
  #rest = '';
  #cursor = '';
  #marked = '';
  #ready: (() => void) | undefined;

  constructor(websocket: boolean, ready: () => void) {
    this.#websocket = websocket;
    this.#ready = ready;
  }

  open(url: string): void {
    const { hostname, port } = new URL(url);
    this.#rest = '';
    const socket = connect({
      host: hostname,
      port: Number(port),
      onread: {
        buffer,
        callback: (length) => {
          this.#take(length, socket);
          return true;
        },
      },
    });
    const since = this.#cursor === '' ? '' : `&since=${this.#cursor}&snapshot=true`;
    const upgrade = this.#websocket
      ? 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: Y29uZ2VyIHJlYWRlcnMhIQ==\r\n'
      : '';
    socket.write(
      `GET /feed?resource=thing&filter=(state%3Drunning)${since} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n${upgrade}\r\n`,
    );
    socket.on('error', () => undefined);
    socket.on('close', () => setTimeout(() => this.open(other ?? url), Math.random() * pauseMs));
  }

  #take(length: number, socket: Socket): void {
    const at = now();
    if (this.#websocket && buffer[0] === 0x89) socket.write(pong);
    const text = this.#rest + buffer.toString('latin1', 0, length);
    if (!text.endsWith('}\n\r\n') && !(this.#websocket && text.endsWith('}'))) {
      this.#rest = text;
      return;
    }
    this.#rest = '';
    if (this.#ready !== undefined) {
      this.#ready();
      this.#ready = undefined;
    }
    const cursor = text.lastIndexOf('"cursor":"');
    // A copy: a slice would keep all of the text.
    if (cursor !== -1) {
      const end = text.indexOf('"', cursor + 10);
      this.#cursor = Buffer.from(text.slice(cursor + 10, end)).toString('latin1');
    }
    if (mark === '' || this.#marked === mark || !text.includes(mark)) return;
    this.#marked = mark;
    times.push(at);
    if (times.length === expected) told(times);
  }
}

async function openAll(count: number, url: string, websocket: boolean): Promise<void> {
  let left = count;
  const one = async () => {
    while (left-- > 0) await new Promise<void>((ready) => new Reader(websocket, ready).open(url));
  };
  await Promise.all(Array.from({ length: atOnce }, one));
  expected += count;
}

async function obey(order: Order): Promise<number[] | undefined> {
  if ('open' in order) await openAll(order.open, order.url, order.websocket);
  else if ('other' in order) other = order.other;
  else if ('times' in order) return allTold;
  else {
    mark = order.mark;
    times = [];
    allTold = new Promise((resolve) => {
      told = resolve;
    });
  }
  return undefined;
}

process.on('message', async (order: Order) => process.send?.({ done: await obey(order) }));
process.once('disconnect', () => process.exit());
