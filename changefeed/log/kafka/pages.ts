import kafkajs from 'kafkajs';
import type Cluster from 'kafkajs/src/cluster/index.js';
import { CongerError } from '../../../runtime/errors.ts';
import { START } from '../../position.ts';
import type { Cursor, LogBatch, LogRecord, Position } from '../../types.ts';
import { Client, type KafkaOptions } from './client.ts';
import { readEnds } from './ends.ts';
import { type Fetched, fetchOnce } from './fetch.ts';
import { fromMessage, repeatable } from './records.ts';
import { doubtfulFrom, isAnotherTopic } from './same-topic.ts';

/** How long connections are kept for the next page. */
const idleMs = 10_000;
/** Pages are read at offsets that are there: a broker that has to wait has nothing. */
const maxWaitMs = 1;

interface Connected {
  readonly client: Client;
  readonly cluster: Cluster;
}

/**
 * Reads the topic page by page for whoever comes, over one set of connections, one page at a time. What goes wrong gives
 * the connections up, and is the caller's to try again.
 */
export class Pages {
  readonly #options: KafkaOptions;
  #last: Promise<unknown> = Promise.resolve();
  #connected: Promise<Connected> | undefined;
  #idle: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: KafkaOptions) {
    this.#options = options;
  }

  /** @throws CongerError PositionGone; Error where no broker answers */
  locate(partition: number, position: Position): Promise<Cursor> {
    return this.#inTurn(partition, async (reader) => ({
      position,
      offset: String(await reader.locate(position)),
    }));
  }

  /** @throws CongerError PositionGone; Error where no broker answers */
  read(partition: number, cursor: Cursor): Promise<LogBatch | undefined> {
    return this.#inTurn(partition, (reader) => reader.page(cursor));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#cut();
    await this.#last;
  }

  #inTurn<T>(partition: number, read: (reader: Reader) => Promise<T>): Promise<T> {
    const turn = this.#last.then(() => this.#read(partition, read));
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async #read<T>(partition: number, read: (reader: Reader) => Promise<T>): Promise<T> {
    if (this.#closed) throw new Error('the log was closed');
    clearTimeout(this.#idle);
    try {
      this.#connected ??= this.#connect();
      const { cluster } = await this.#connected;
      return await read(new Reader(cluster, this.#options.topic, partition));
    } catch (error) {
      // Only offsets that a partition had are asked for.
      if (error instanceof kafkajs.KafkaJSOffsetOutOfRange) throw gone();
      if (!(error instanceof CongerError)) await this.#cut();
      throw error;
    } finally {
      this.#idle = setTimeout(() => void this.#cut(), idleMs).unref();
    }
  }

  async #connect(): Promise<Connected> {
    const client = new Client(this.#options, 'conger-pages');
    try {
      const cluster = client.cluster();
      await cluster.connect();
      await cluster.addTargetTopic(this.#options.topic);
      return { client, cluster };
    } catch (error) {
      client.cut();
      throw error;
    }
  }

  async #cut(): Promise<void> {
    clearTimeout(this.#idle);
    const connected = this.#connected;
    this.#connected = undefined;
    await connected?.then(
      ({ client }) => client.cut(),
      () => undefined,
    );
  }
}

/** One partition, as one caller reads it. */
class Reader {
  readonly #cluster: Cluster;
  readonly #topic: string;
  readonly #partition: number;
  readonly #nodeId: string;

  constructor(cluster: Cluster, topic: string, partition: number) {
    this.#cluster = cluster;
    this.#topic = topic;
    this.#partition = partition;
    const leaders = Object.entries(cluster.findLeaderForPartitions(topic, [partition]));
    const [nodeId] = leaders.find(([, led]) => led.includes(partition)) ?? [];
    if (nodeId === undefined) throw new Error(`partition ${partition} has no leader`);
    this.#nodeId = nodeId;
  }

  async page({ position, offset }: Cursor): Promise<LogBatch | undefined> {
    const next = BigInt(offset);
    // A topic may be made anew between two pages, without a word over the connections.
    let from = doubtfulFrom(next, position);
    for (;;) {
      const fetched = await this.#fetch(from);
      if (fetched === undefined && from < next) throw this.#silent();
      if (fetched === undefined) return undefined;
      if (isAnotherTopic(fetched.messages, this.#partition, next, position)) throw gone();
      from = fetched.next;
      const records = this.#ascending(fetched, position);
      const last = records.at(-1);
      if (last === undefined) continue;
      const cursor = { position: last.position, offset: String(from) };
      return { partition: this.#partition, records, cursor };
    }
  }

  /** Without what a writer that was taken over has repeated. */
  #ascending({ messages }: Fetched, position: Position): LogRecord[] {
    let last = position;
    return messages.flatMap((message) => {
      const record = fromMessage(this.#partition, message);
      if (record === undefined || record.position <= last) return [];
      last = record.position;
      return [record];
    });
  }

  /** The offset of the first record behind a position, or the partition's end. */
  async locate(position: Position): Promise<bigint> {
    const ends = await readEnds(this.#cluster, this.#topic, this.#partition + 1);
    const { low, high } = ends[this.#partition] ?? { low: 0n, high: 0n };
    let first = position === START ? low : high;
    while (first > low) {
      first = await this.#bisect(low, first, position);
      // The search may have taken a repeated record for one of its place: records behind the position lie before it.
      const from = first - repeatable > low ? first - repeatable : low;
      const earlier = await this.#firstBehind(from, first, position);
      if (earlier === undefined) break;
      first = earlier;
    }
    // Nothing that is there lies before it, so something that is not there may lie behind it: it was dropped, or was in
    // a topic that was deleted and made anew, of which only positions tell.
    if (first === low && (low > 0n || position !== START)) throw gone();
    return first;
  }

  /** The first offset of [low, high) that has a record behind the position, or `high`, where positions only increase. */
  async #bisect(low: bigint, high: bigint, position: Position): Promise<bigint> {
    let [from, until] = [low, high];
    while (from < until) {
      const middle = (from + until) / 2n;
      const { behind, next } = await this.#look(middle, position);
      if (behind === undefined) from = next;
      else if (behind.first && behind.offset < until) until = middle;
      else return behind.offset < until ? behind.offset : until;
    }
    return until;
  }

  async #firstBehind(from: bigint, until: bigint, position: Position): Promise<bigint | undefined> {
    for (let offset = from; offset < until; ) {
      const { behind, next } = await this.#look(offset, position);
      if (behind !== undefined) return behind.offset < until ? behind.offset : undefined;
      offset = next;
    }
    return undefined;
  }

  /** What one fetch from `offset` shows: the first record behind the position, and whether it is the first of all. */
  async #look(offset: bigint, position: Position) {
    const fetched = await this.#fetch(offset);
    if (fetched === undefined) throw this.#silent();
    const records = fetched.messages.flatMap((message) => {
      const record = fromMessage(this.#partition, message);
      return record === undefined ? [] : [{ offset: BigInt(message.offset), position: record.position }];
    });
    const at = records.findIndex((record) => record.position > position);
    const found = records[at];
    return {
      behind: found === undefined ? undefined : { offset: found.offset, first: at === 0 },
      next: fetched.next,
    };
  }

  /** Nothing was answered where a record must be. */
  #silent(): Error {
    return new Error(`no broker answers for partition ${this.#partition}`);
  }

  async #fetch(offset: bigint): Promise<Fetched | undefined> {
    const wanted = [{ partition: this.#partition, offset }];
    const [fetched] = await fetchOnce(this.#cluster, this.#topic, this.#nodeId, wanted, maxWaitMs);
    return fetched;
  }
}

function gone(): CongerError {
  return new CongerError('PositionGone', 'the log does not hold the position any more');
}
