import { type ObjectFilter, objectFilter } from '../../kvstore/filter.ts';
import type { BucketConfig, Kv, KvObject } from '../../kvstore/types.ts';
import type { Broadcast } from '../broadcast.ts';
import type { Change, Position } from '../types.ts';
import { Cohorts } from './cohort.ts';
import type { FeedCursor } from './cursor.ts';
import type { FeedSnapshot } from './feed.ts';
import { HeldSnapshot, type Hold } from './held-snapshot.ts';
import type { ChangeLine, SnapshotLine } from './lines.ts';
import type { Turns } from './turns.ts';

export interface FeedResource {
  readonly bucket: string;
  /** A filter that matches every object of the bucket, for snapshots. */
  readonly all: string;
  /** The bucket's indexes: what filters may be about. */
  readonly index: BucketConfig['index'];
  /** What of an object's value the outside sees. */
  readonly present: (value: unknown) => unknown;
}

/** Bounds what a class keeps for readers that come to a change later than the first one. */
const maxLines = 1_000;
const maxBytes = 4 * 1024 * 1024;

/** What a line is wrapped in to be sent. */
export type Frame = (line: string) => Buffer;

/** A change as it is sent. What was made for the last reader is kept, as the next one mostly has the same cursor. */
export class Line {
  readonly #head: string;
  readonly #sent = new Map<Frame, Buffer>();
  #cursor: FeedCursor | undefined;

  constructor(line: Omit<ChangeLine, 'cursor'>) {
    this.#head = JSON.stringify(line).slice(0, -1);
  }

  get size(): number {
    return this.#head.length;
  }

  with(cursor: FeedCursor, frame: Frame): Buffer {
    if (this.#cursor !== cursor) this.#sent.clear();
    this.#cursor = cursor;
    const known = this.#sent.get(frame);
    if (known !== undefined) return known;
    const made = frame(`${this.#head},"cursor":"${cursor}"}`);
    this.#sent.set(frame, made);
    return made;
  }
}

/**
 * All readers of one resource with one filter: what a change is to them, and its text, is found once, and those who want
 * a snapshot while one is being read share it.
 */
export class FeedClass {
  readonly name: string;
  readonly select = (change: Change) => this.line(change);
  readonly cohorts = new Cohorts<Line>(this.select);
  readonly #resource: FeedResource;
  readonly #filter: ObjectFilter | undefined;
  /** By the change's position: a change is not kept for longer than the ring holds it. */
  readonly #lines = new Map<Position, Line | undefined>();
  #bytes = 0;
  #held: HeldSnapshot<string> | undefined;

  constructor(name: string, resource: FeedResource, filter: ObjectFilter | undefined) {
    this.name = name;
    this.#resource = resource;
    this.#filter = filter;
  }

  /** The line that a change is, or undefined where it is none. */
  line(change: Change): Line | undefined {
    if (change.bucket !== this.#resource.bucket) return undefined;
    if (this.#lines.has(change.position)) return this.#lines.get(change.position);
    const type = this.#typeOf(change);
    const line = type === undefined ? undefined : new Line(this.#present(change, type));
    this.#lines.set(change.position, line);
    this.#bytes += line?.size ?? 0;
    for (const [oldest, its] of this.#lines) {
      if (this.#lines.size <= maxLines && this.#bytes <= maxBytes) break;
      this.#lines.delete(oldest);
      this.#bytes -= its?.size ?? 0;
    }
    return line;
  }

  /** The objects that there are, as lines. Readers share what is being read, or sent, while the ring reaches back to it. */
  hold(broadcast: Broadcast, kv: Pick<Kv, 'find'>, turns: Turns): Hold<string> {
    const known = this.#held;
    if (known !== undefined && (known.since === undefined || broadcast.reaches(known.since)))
      return known.hold();
    const held = new HeldSnapshot<string>(
      turns,
      () => broadcast.cursor(),
      () => this.#find(kv),
      () => {
        if (this.#held === held) this.#held = undefined;
      },
    );
    this.#held = held;
    return held.hold();
  }

  async #find(kv: Pick<Kv, 'find'>): Promise<FeedSnapshot<string>> {
    const { bucket, all } = this.#resource;
    const { objects, snapshot } = await kv.find<unknown>(bucket, this.#filter?.text ?? all, {
      noLimit: true,
    });
    return {
      items: objects.map((object) => JSON.stringify(this.#presentObject(object))),
      found: { snapshot },
    };
  }

  #typeOf({ op, key, value, previous }: Change): ChangeLine['type'] | undefined {
    if (this.#filter === undefined) return op;
    const did = previous !== null && this.#filter.matches(key, previous);
    if (op === 'delete') return did ? 'delete' : undefined;
    if (this.#filter.matches(key, value)) return 'put';
    return did ? 'leave' : undefined;
  }

  #present(change: Change, type: ChangeLine['type']): Omit<ChangeLine, 'cursor'> {
    const { present } = this.#resource;
    return {
      type,
      resource: this.name,
      bucket: change.bucket,
      key: change.key,
      etag: change.etag,
      value: change.value === null ? null : present(change.value),
      previous: change.previous === null ? null : present(change.previous),
      position: change.position,
      partition: change.partition,
      time: change.time,
      requestId: change.requestId,
      traceparent: change.traceparent,
    };
  }

  #presentObject({ bucket, key, _etag, value }: KvObject<unknown>): SnapshotLine {
    return {
      type: 'snapshot',
      resource: this.name,
      bucket,
      key,
      etag: _etag,
      value: this.#resource.present(value),
    };
  }
}

/** The classes that have readers, so that readers with the same filter share one. */
export class FeedClasses {
  readonly #resources: Readonly<Record<string, FeedResource>>;
  readonly #classes = new Map<string, { readonly made: FeedClass; readers: number }>();

  constructor(resources: Readonly<Record<string, FeedResource>>) {
    this.#resources = resources;
  }

  /** The resource of this name, or of this bucket; undefined where there is none. */
  find(wanted: string): [string, FeedResource] | undefined {
    return Object.entries(this.#resources).find(([name, { bucket }]) => name === wanted || bucket === wanted);
  }

  /**
   * The class of a reader, and the function that the reader calls when it leaves.
   * @throws CongerError InvalidQueryError, NotIndexedError
   */
  join([name, resource]: [string, FeedResource], filter: string | undefined): [FeedClass, () => void] {
    const compiled = filter === undefined ? undefined : objectFilter(resource.bucket, resource.index, filter);
    const key = `${name} ${compiled?.text ?? ''}`;
    const known = this.#classes.get(key) ?? { made: new FeedClass(name, resource, compiled), readers: 0 };
    this.#classes.set(key, known);
    known.readers++;
    const leave = () => {
      known.readers--;
      if (known.readers === 0) this.#classes.delete(key);
    };
    return [known.made, leave];
  }
}
