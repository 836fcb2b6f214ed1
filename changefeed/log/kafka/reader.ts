import { randomUUID } from 'node:crypto';
import type { Cursor, GroupHandler, LogBatch, LogReader, Position, Reading } from '../../types.ts';
import { Client, type KafkaOptions } from './client.ts';
import { Delivery } from './delivery.ts';
import { type Ends, numbers, readEnds } from './ends.ts';
import { Fetcher } from './fetcher.ts';
import { Membership } from './membership.ts';
import { Ownership } from './ownership.ts';
import { Pages } from './pages.ts';
import { repeatable } from './records.ts';
import { retrying } from './retrying.ts';

/**
 * Reads the topic. Positions within a partition only ever increase towards a handler, whatever writers have appended.
 * A cursor's offset is that of the next record to read.
 */
export class KafkaReader implements LogReader {
  readonly partitions: number;
  readonly #options: KafkaOptions;
  readonly #readings = new Set<Reading>();
  readonly #closed = new AbortController();
  readonly #pages: Pages;

  constructor(options: KafkaOptions) {
    this.#options = options;
    this.partitions = options.partitions;
    this.#pages = new Pages(options);
  }

  async readAll(
    tail: number,
    onBatch: (batch: LogBatch) => void | Promise<void>,
    onGap?: (partition: number) => void | Promise<void>,
  ): Promise<Reading> {
    this.#assertOpen();
    const { log } = this.#options;
    const ends = await retrying('reading the ends of the log', 8, () => this.#ends(), this.#closed.signal);
    this.#assertOpen();
    const fetcher = new Fetcher(this.#options, `conger-read-${randomUUID()}`);
    let deliveries: readonly Delivery[] = [];
    let giveUp: (why: Error) => void = () => {};
    const reading = this.#reading(async () => {
      giveUp(new Error('the log was closed'));
      await fetcher.stop();
      await Promise.all(deliveries.map((delivery) => delivery.stop()));
    });
    await new Promise<void>((resolve, reject) => {
      giveUp = reject;
      const behind = new Set(numbers(this.partitions));
      const onProgress = (partition: number, offset: bigint) => {
        if (offset >= (ends[partition]?.high ?? 0n)) behind.delete(partition);
        if (behind.size === 0) resolve();
      };
      deliveries = ends.map(({ low, high }, partition) => {
        // Begun amid what a writer has repeated, it would pass over what that writer's successor had appended before.
        const tellFrom = max(low, high - BigInt(tail));
        const offset = max(low, tellFrom - repeatable);
        const onRoom = () => fetcher.wake();
        const own = { partition, offset, tellFrom, position: '', onGap: () => onGap?.(partition) };
        return new Delivery({ ...own, log, onBatch, onProgress, onRoom });
      });
      for (const delivery of deliveries) {
        fetcher.add(delivery);
        onProgress(delivery.partition, delivery.next);
      }
    });
    return reading;
  }

  async join(group: string, member: string, handler: GroupHandler): Promise<Reading> {
    this.#assertOpen();
    const fetcher = new Fetcher(this.#options, member);
    const owned = numbers(this.partitions).map(
      (partition) => new Ownership(partition, handler, fetcher, this.#options),
    );
    let stopping = false;
    // One Kafka may hold the logs of several datacenters, whose groups have the same names.
    const groupId = `${this.#options.topic}.${group}`;
    const membership = new Membership(this.#options, groupId, member, (shares) => {
      if (stopping) return;
      for (const ownership of owned) ownership.want(shares);
      handler.regrouped?.();
    });
    let giveUp: (why: Error) => void = () => {};
    const closed = new Promise<never>((_, reject) => {
      giveUp = reject;
    });
    closed.catch(() => {});
    const reading = this.#reading(async () => {
      stopping = true;
      giveUp(new Error('the log was closed'));
      // What runs is finished before the others get the partitions, so that they find its checkpoint.
      for (const ownership of owned) ownership.want(new Map());
      await Promise.all(owned.map((ownership) => ownership.settled()));
      await Promise.all([membership.leave(), fetcher.stop()]);
    });
    await Promise.race([membership.joined, closed]);
    return reading;
  }

  locate(partition: number, position: Position): Promise<Cursor> {
    return this.#pages.locate(partition, position);
  }

  readFrom(partition: number, cursor: Cursor): Promise<LogBatch | undefined> {
    return this.#pages.read(partition, cursor);
  }

  async behind(cursors: ReadonlyMap<number, Cursor>): Promise<ReadonlyMap<number, number>> {
    if (cursors.size === 0) return new Map();
    this.#assertOpen();
    const ends = await this.#ends();
    return new Map(
      [...cursors].map(([partition, { offset }]) => {
        const { low, high } = ends[partition] ?? { low: 0n, high: 0n };
        const next = /^\d+$/.test(offset) ? BigInt(offset) : 0n;
        const from = next > low && next <= high ? next : low;
        return [partition, Number(high - from)];
      }),
    );
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#pages.close();
    await Promise.all([...this.#readings].map((reading) => reading.stop()));
  }

  #assertOpen(): void {
    if (this.#closed.signal.aborted) throw new Error('the log was closed');
  }

  #reading(end: () => Promise<void>): Reading {
    let ended: Promise<void> | undefined;
    const reading: Reading = {
      stop: () => {
        ended ??= end().finally(() => this.#readings.delete(reading));
        return ended;
      },
    };
    this.#readings.add(reading);
    return reading;
  }

  async #ends(): Promise<Ends[]> {
    const client = new Client(this.#options, 'conger-ends');
    try {
      const cluster = client.cluster();
      await cluster.connect();
      await cluster.addTargetTopic(this.#options.topic);
      return await readEnds(cluster, this.#options.topic, this.partitions);
    } finally {
      client.cut();
    }
  }
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
