import { CongerError } from '../../runtime/errors.ts';
import { openings } from '../capture/opening.ts';
import { partitionOf } from '../change.ts';
import { formatPosition } from '../position.ts';
import type { Cursor, GroupHandler, LogBatch, LogReader, LogRecord, Position, Reading } from '../types.ts';

export interface TestChange {
  readonly bucket?: string;
  readonly key: string;
  readonly partitionKey?: string;
  readonly value?: unknown;
  readonly previous?: unknown;
  readonly op?: 'put' | 'delete';
  readonly xid?: number;
  readonly requestId?: string;
  readonly time?: number;
  readonly epoch?: number;
}

type OnBatch = (batch: LogBatch) => void | Promise<void>;

/**
 * A log in memory, for tests: records go to every reader as they are appended, and to a member of a group when the
 * test says that it owns the partition. `hold` keeps a reader behind.
 */
export class TestLog {
  readonly partitions: number;
  readonly records: LogRecord[][];
  /** How many of each partition's oldest records are not held any more. */
  readonly #dropped: number[];
  #count = 0;

  constructor(partitions = 4) {
    this.partitions = partitions;
    this.records = Array.from({ length: partitions }, () => []);
    this.#dropped = this.records.map(() => 0);
  }

  /** The record of a change, at the next position, not yet in the log. */
  make(change: TestChange): LogRecord {
    const n = ++this.#count;
    const partitionKey = change.partitionKey ?? change.key;
    const op = change.op ?? 'put';
    const body = {
      v: 1,
      bucket: change.bucket ?? 'things',
      key: change.key,
      op,
      etag: op === 'put' ? `etag${n}` : null,
      request_id: change.requestId ?? null,
      traceparent: null,
      value: op === 'put' ? (change.value ?? { n }) : null,
      previous: change.previous ?? null,
    };
    return {
      position: positionAt(n, change.epoch),
      partition: partitionOf(partitionKey, this.partitions),
      partitionKey,
      xid: String(change.xid ?? 1000 + n),
      index: 0,
      count: 1,
      time: change.time ?? Date.now(),
      body: Buffer.from(JSON.stringify(body)),
    };
  }

  /** Begins an epoch in every partition, as the capture does. */
  open(epoch: number): void {
    const tails = this.records.map((records) => records.at(-1)?.position ?? '');
    this.append(...openings(epoch, tails));
  }

  /** Adds records to the log; readers get them when they are told to go on. */
  append(...records: LogRecord[]): void {
    for (const record of records) this.records[record.partition]?.push(record);
  }

  /** Drops all but the last `kept` records of each partition, as retention does. */
  drop(kept: number): void {
    for (const [partition, { length }] of this.records.entries()) {
      this.#dropped[partition] = Math.max(this.dropped(partition), length - kept);
    }
  }

  dropped(partition: number): number {
    return this.#dropped[partition] ?? 0;
  }

  reader(): TestReader {
    return new TestReader(this);
  }

  /** A batch of a partition's records, from an index on. */
  batch(partition: number, from: number, to?: number): LogBatch {
    const all = this.records[partition] ?? [];
    const end = Math.min(to ?? all.length, all.length);
    const position = all[end - 1]?.position ?? '';
    return { partition, records: all.slice(from, end), cursor: { position, offset: String(end) } };
  }
}

export function positionAt(n: number, epoch = 1): Position {
  return formatPosition({ epoch, lsn: BigInt(n) * 16n, index: 0 });
}

/** One process's reader of a TestLog. */
export class TestReader implements LogReader {
  readonly #log: TestLog;
  readonly #next: number[];
  #onBatch: OnBatch | undefined;
  /** Tells who reads everything that records of a partition are gone. */
  lose: (partition: number) => Promise<void> = async () => undefined;
  #member: { readonly handler: GroupHandler; readonly next: Map<number, number> } | undefined;

  constructor(log: TestLog) {
    this.#log = log;
    this.#next = log.records.map(() => 0);
  }

  get partitions(): number {
    return this.#log.partitions;
  }

  async readAll(
    tail: number,
    onBatch: OnBatch,
    onGap?: (partition: number) => void | Promise<void>,
  ): Promise<Reading> {
    this.#onBatch = onBatch;
    this.lose = async (partition) => onGap?.(partition);
    for (const [partition, records] of this.#log.records.entries()) {
      this.#next[partition] = Math.max(this.#log.dropped(partition), records.length - tail);
    }
    await this.goOn();
    return {
      stop: async () => {
        this.#onBatch = undefined;
      },
    };
  }

  /** Hands over up to `most` records of each of some partitions. */
  async goOn(partitions: readonly number[] = [...this.#next.keys()], most = 1_000_000): Promise<void> {
    for (const partition of partitions) {
      const from = this.#next[partition] ?? 0;
      const batch = this.#log.batch(partition, from, from + most);
      if (batch.records.length === 0) continue;
      this.#next[partition] = from + batch.records.length;
      await this.#onBatch?.(batch);
    }
  }

  /** Hands a batch over as it is, out of turn. */
  async push(records: readonly LogRecord[]): Promise<void> {
    for (const record of records) {
      const cursor = { position: record.position, offset: '' };
      await this.#onBatch?.({ partition: record.partition, records: [record], cursor });
    }
  }

  /** Tells the member that records are missing in the partition. */
  async gap(partition: number): Promise<void> {
    await this.#joined().handler.gap(partition);
  }

  async behind(cursors: ReadonlyMap<number, Cursor>): Promise<ReadonlyMap<number, number>> {
    const count = (partition: number, { position }: Cursor) => {
      const held = (this.#log.records[partition] ?? []).slice(this.#log.dropped(partition));
      return held.filter((record) => record.position > position).length;
    };
    return new Map([...cursors].map(([partition, cursor]) => [partition, count(partition, cursor)]));
  }

  async join(_group: string, _member: string, handler: GroupHandler): Promise<Reading> {
    this.#member = { handler, next: new Map() };
    handler.regrouped?.();
    return { stop: async () => undefined };
  }

  /** How many pages were read, and how many records a page has. */
  pages = 0;
  pageRecords = 100;

  async locate(partition: number, position: Position): Promise<Cursor> {
    const dropped = this.#log.dropped(partition);
    if (position < (this.#log.records[partition]?.[dropped - 1]?.position ?? '')) {
      throw new CongerError('PositionGone', 'the log does not hold the position any more');
    }
    return { position, offset: '' };
  }

  async readFrom(partition: number, { position }: Cursor): Promise<LogBatch | undefined> {
    await this.locate(partition, position);
    this.pages++;
    const records = this.#log.records[partition] ?? [];
    const from = records.findIndex((record) => record.position > position);
    return from === -1 ? undefined : this.#log.batch(partition, from, from + this.pageRecords);
  }

  /** Makes this member the owner of a partition, in its own eyes. */
  async assign(partition: number): Promise<Cursor | 'start'> {
    const member = this.#joined();
    const cursor = await member.handler.assigned(partition);
    member.next.set(partition, cursor === 'start' ? 0 : Number(cursor.offset));
    return cursor;
  }

  async revoke(partition: number): Promise<void> {
    const member = this.#joined();
    member.next.delete(partition);
    await member.handler.revoked(partition);
  }

  /** Offers what is next in a partition, up to `most` records; a rejection leaves it to be offered again. */
  async offer(partition: number, most = 1_000_000): Promise<void> {
    const member = this.#joined();
    const from = member.next.get(partition) ?? 0;
    const batch = this.#log.batch(partition, from, from + most);
    if (batch.records.length === 0) return;
    await member.handler.batch(batch);
    member.next.set(partition, from + batch.records.length);
  }

  async close(): Promise<void> {
    this.#onBatch = undefined;
  }

  #joined() {
    if (this.#member === undefined) throw new Error('nobody has joined');
    return this.#member;
  }
}
