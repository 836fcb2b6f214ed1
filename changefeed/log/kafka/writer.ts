import { type Message, Partitioners, type Producer } from 'kafkajs';
import { messageOf } from '../../../runtime/errors.ts';
import { failpoint } from '../../../runtime/failpoints.ts';
import { counter, timer } from '../../../runtime/metrics.ts';
import type { LogRecord, LogWriter, Position } from '../../types.ts';
import { Client, type KafkaOptions, patience } from './client.ts';
import { sizeOf, toMessage } from './records.ts';
import { retrying } from './retrying.ts';
import { readTails } from './tails.ts';

/** What one request holds at most; a single record may be larger. */
const maxRequestBytes = 1 << 20;
const maxRequestRecords = 5_000;

/** What fails for longer than this is for the caller to know, who opens the log again. */
const patienceMs = 30_000;
/** kafkajs tries until its client is cut. */
const untilCut = { ...patience, retries: Number.MAX_SAFE_INTEGER };
/** How long a broker may wait for its replicas. */
const replicasMs = 8_000;

const appendSeconds = timer('conger_kafka_append_seconds', 'time until Kafka has acknowledged one request');

const unsent = counter(
  'conger_kafka_unsent_total',
  'records that kafkajs left out of a request while leaders changed, and that were sent after it',
);

interface Waiting {
  readonly record: LogRecord;
  /** Set on the last record of an append. */
  readonly done: (() => void) | undefined;
  readonly failed: (error: unknown) => void;
}

/**
 * One opening of the log. Records are sent in the order in which they were appended, one request at a time, by an
 * idempotent producer that sends a request again and again, and nothing else before it. Once a request has failed for
 * good this opening sends nothing more: what follows would have the sequence numbers of what may have arrived.
 */
class Opening {
  readonly #client: Client;
  readonly #producer: Producer;
  readonly #topic: string;
  #queue: Waiting[] = [];
  #sending = false;
  #failure: Error | undefined;

  constructor(client: Client, topic: string) {
    this.#client = client;
    this.#topic = topic;
    this.#producer = client.kafka.producer({
      idempotent: true,
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
      createPartitioner: Partitioners.DefaultPartitioner,
      retry: untilCut,
    });
  }

  connect(): Promise<void> {
    return this.#producer.connect();
  }

  append(records: readonly LogRecord[]): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) return reject(this.#failure);
      if (records.length === 0) return resolve();
      const last = records.length - 1;
      records.forEach((record, n) => {
        this.#queue.push({ record, done: n === last ? resolve : undefined, failed: reject });
      });
      if (!this.#sending) void this.#send();
    });
  }

  /** Refuses what waits and everything that comes; nothing is sent any more. */
  fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#client.cut();
    const waiting = this.#queue;
    this.#queue = [];
    for (const { failed } of waiting) failed(error);
  }

  async #send(): Promise<void> {
    this.#sending = true;
    while (this.#queue.length > 0) {
      const request = this.#queue.slice(0, this.#fit());
      const messages: Message[] = request.map(({ record }) => toMessage(record));
      const stopTimer = appendSeconds.startTimer();
      const deadline = setTimeout(
        () => this.fail(new Error(`Kafka has not taken the changes for ${patienceMs / 1000} s`)),
        patienceMs,
      );
      try {
        await failpoint('log.kafka.send.before');
        await this.#sendAll(messages);
        await failpoint('log.kafka.send.after');
      } catch (error) {
        this.fail(new Error(`Kafka did not take the changes: ${messageOf(error)}`, { cause: error }));
        return;
      } finally {
        clearTimeout(deadline);
      }
      if (this.#failure !== undefined) return;
      stopTimer();
      this.#queue.splice(0, request.length);
      for (const { done } of request) done?.();
    }
    this.#sending = false;
  }

  /**
   * Sends until every partition has answered. Where a leader dies while other brokers have answered, kafkajs 2.2.4 takes
   * these for done, and does not send them what they lead since; it resolves all the same, and names the partitions that
   * it has an answer of. What is sent again has its sequence number, as it was.
   */
  async #sendAll(messages: Message[]): Promise<void> {
    for (let rest = messages; rest.length > 0; ) {
      const answers = await this.#producer.send({
        topic: this.#topic,
        acks: -1,
        timeout: replicasMs,
        messages: rest,
      });
      const done = new Set(answers.map(({ partition }) => partition));
      rest = rest.filter(({ partition }) => partition === undefined || !done.has(partition));
      if (rest.length > 0) unsent.inc(rest.length);
    }
  }

  #fit(): number {
    let bytes = 0;
    let count = 0;
    for (const { record } of this.#queue) {
      bytes += sizeOf(record);
      if (count === maxRequestRecords || (count > 0 && bytes > maxRequestBytes)) break;
      count++;
    }
    return count;
  }
}

/**
 * Appends to the topic, one opening after the other: opening again ends the one before, whose connections are cut before
 * the tails are read.
 */
export class KafkaWriter implements LogWriter {
  readonly #options: KafkaOptions;
  #opening: Opening | undefined;
  readonly #closed = new AbortController();

  constructor(options: KafkaOptions) {
    this.#options = options;
  }

  async open(): Promise<readonly Position[]> {
    this.#opening?.fail(new Error('the log was opened again'));
    this.#opening = undefined;
    return retrying('opening the log', 6, () => this.#open(), this.#closed.signal);
  }

  async #open(): Promise<readonly Position[]> {
    const { topic, partitions } = this.#options;
    const client = new Client(this.#options, 'conger-capture', untilCut);
    const deadline = setTimeout(() => client.cut(), patienceMs);
    try {
      await failpoint('log.kafka.open.before');
      const cluster = client.cluster();
      await cluster.connect();
      await cluster.addTargetTopic(topic);
      const opening = new Opening(client, topic);
      await opening.connect();
      const tails = await readTails(cluster, topic, partitions);
      await failpoint('log.kafka.open.after');
      if (this.#closed.signal.aborted) throw new Error('the log was closed');
      this.#opening = opening;
      return tails;
    } catch (error) {
      client.cut();
      throw error;
    } finally {
      clearTimeout(deadline);
    }
  }

  async append(records: readonly LogRecord[]): Promise<void> {
    if (this.#opening === undefined) throw new Error('the log is not open');
    const { partitions } = this.#options;
    for (const { partition } of records) {
      if (!Number.isInteger(partition) || partition < 0 || partition >= partitions) {
        throw new RangeError(`the log has no partition ${partition}`);
      }
    }
    await this.#opening.append(records);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    this.#opening?.fail(new Error('the log was closed'));
    this.#opening = undefined;
  }
}
