import { setTimeout as sleep } from 'node:timers/promises';
import { decodeCursor } from '../../changefeed/feeds/cursor.ts';
import type { FeedLine } from '../../changefeed/feeds/http.ts';
import type { Kv } from '../../kvstore/types.ts';
import { type ErrorCode, errorTable } from '../../runtime/errors.ts';
import type { Random } from '../random.ts';
import { until } from '../until.ts';
import type { Read, Stream, Told } from './history.ts';
import { patienceMs } from './patience.ts';
import { bucket, type Value } from './resources.ts';

type Open = {
  -readonly [K in keyof Stream]: Stream[K] extends readonly (infer T)[] ? T[] : Stream[K];
} & { told: Told[]; reads: Read[]; cursors: { told: number; positions: readonly string[] }[] };

/** What a replay begins with. */
export interface Place {
  readonly cursor: string;
  readonly positions: readonly string[];
}

export interface ListenerOptions {
  readonly name: string;
  readonly kind: Stream['kind'];
  readonly urls: readonly string[];
  readonly random: Random;
  /** Whether it breaks its connections by itself now and then. */
  readonly restless?: boolean;
  /** Where it reads objects that it was told of, one at a time. */
  readonly reads?: Kv;
  /** Where to begin; absent: with what is to come, or with a snapshot. */
  readonly since?: Place;
}

/** Anything but "not now" is a broken promise, and must not be retried into silence. */
const notNow = 503;

/**
 * A listener of `GET /feed`: it remembers the cursor of the last line, and goes on from there, at any instance, when
 * its connection ends. All that it saw is in `streams`, by connection.
 */
export class Listener {
  readonly streams: Stream[] = [];
  /** Of every line that had a cursor. */
  readonly places: Place[] = [];
  readonly #options: ListenerOptions;
  readonly #abort = new AbortController();
  readonly #running: Promise<void>;
  #place: Place | undefined;
  #begun = false;
  #reading: Promise<void> | undefined;

  constructor(options: ListenerOptions) {
    this.#options = options;
    this.#place = options.since;
    this.#running = this.#run();
  }

  /** Resolves when it has its place in the feed, a snapshot included. */
  async begun(): Promise<void> {
    const { name } = this.#options;
    await until(`${name} begins`, async () => this.#begun || this.#abort.signal.aborted, patienceMs);
  }

  /** The last position that it knows of, in each partition. */
  get positions(): readonly string[] {
    return this.#place?.positions ?? [];
  }

  /** Whether the service has refused it, so that nothing more will come. */
  get refused(): boolean {
    return this.streams.at(-1)?.refused !== undefined;
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#running;
    await this.#reading;
  }

  async #run(): Promise<void> {
    const { random, restless } = this.#options;
    while (!this.#abort.signal.aborted && !this.refused) {
      const own = new AbortController();
      const cut = restless === true ? setTimeout(() => own.abort(), 200 + random.below(3_000)) : undefined;
      try {
        await this.#follow(
          random.pick(this.#options.urls),
          AbortSignal.any([own.signal, this.#abort.signal]),
        );
      } catch {
        // The connection broke: the next one goes on from the cursor.
      }
      clearTimeout(cut);
      await sleep(30);
    }
  }

  async #follow(url: string, signal: AbortSignal): Promise<void> {
    const { name, kind } = this.#options;
    const since = this.#place;
    const query = new URLSearchParams({ resource: kind === 'idle' ? 'idle' : 'chaos' });
    if (kind === 'snapshot') query.set('snapshot', 'true');
    if (since !== undefined) query.set('since', since.cursor);
    const answer = await fetch(`${url}/feed?${query}`, { signal });
    const stream: Open = {
      listener: name,
      kind,
      told: [],
      reads: [],
      cursors: [],
      ...(since === undefined ? {} : { since: since.positions }),
    };
    if (!answer.ok || answer.body === null) {
      const text = await answer.text();
      if (text.includes('PositionGone')) this.#beginAnew(stream);
      else if (answer.status < notNow) this.streams.push({ ...stream, refused: `${answer.status} ${text}` });
      return;
    }
    this.streams.push(stream);
    const objects: Record<string, string> = {};
    let rest = '';
    for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#take(stream, objects, JSON.parse(line) as FeedLine);
    }
  }

  #take(stream: Open, objects: Record<string, string>, line: FeedLine): void {
    switch (line.type) {
      case 'put':
      case 'delete': {
        const { partition, position, key, type: op } = line;
        const id = (of: unknown) => (of as Value | null)?.id ?? null;
        stream.told.push({ partition, position, key, op, id: id(line.value), previous: id(line.previous) });
        this.#reading ??= this.#read(stream, line);
        break;
      }
      case 'snapshot':
        objects[line.key] = (line.value as Value).id;
        return;
      case 'snapshot-end':
        stream.snapshot = { ...objects };
        break;
      case 'error':
        if (line.code === 'PositionGone') {
          this.#beginAnew(stream);
          return;
        }
        if ((errorTable[line.code as ErrorCode]?.status ?? 0) < notNow) stream.refused = JSON.stringify(line);
        break;
    }
    if (!('cursor' in line) || line.cursor === undefined) return;
    const { positions } = decodeCursor(line.cursor);
    stream.cursors.push({ told: stream.told.length, positions });
    this.#place = { cursor: line.cursor, positions };
    this.places.push(this.#place);
    this.#begun = true;
  }

  async #read({ reads }: Open, { partition, position, key }: Pick<Told, 'partition' | 'position' | 'key'>) {
    try {
      const found = await this.#options.reads?.tryGet<Value>(bucket, key);
      if (this.#options.reads !== undefined)
        reads.push({ partition, position, key, id: found?.value.id ?? null });
    } catch {
      // The store could not be reached.
    }
    this.#reading = undefined;
  }

  #beginAnew(stream: Open): void {
    stream.gone = true;
    if (!this.streams.includes(stream)) this.streams.push(stream);
    this.#place = undefined;
  }
}
