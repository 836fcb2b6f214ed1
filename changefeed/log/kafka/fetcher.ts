import kafkajs from 'kafkajs';
import type Cluster from 'kafkajs/src/cluster/index.js';
import { messageOf } from '../../../runtime/errors.ts';
import { failpoint } from '../../../runtime/failpoints.ts';
import { Backoff } from '../../backoff.ts';
import { Client, type KafkaOptions } from './client.ts';
import type { Delivery } from './delivery.ts';
import { numbers, readEnds } from './ends.ts';
import { fetchOnce } from './fetch.ts';

/** How long a broker holds a fetch that finds nothing. */
const maxWaitMs = 500;
/** The same while a partition is left out for want of room, or more partitions are likely to come: they wait for it. */
const shortWaitMs = 25;
const settlingMs = 2_000;

/**
 * Fetches for a set of deliveries: each gets what its partition holds from its offset on, in order and each record once,
 * whatever becomes of connections. There is one way out of every failure: all connections are given up, and new ones
 * find the brokers and the leaders anew.
 */
export class Fetcher {
  readonly #options: KafkaOptions;
  readonly #clientId: string;
  readonly #deliveries = new Map<number, Delivery>();
  readonly #stopped = new AbortController();
  #wake: (() => void)[] = [];
  #settledAt = 0;
  #client: Client | undefined;
  readonly #running: Promise<void>;

  constructor(options: KafkaOptions, clientId: string) {
    this.#options = options;
    this.#clientId = clientId;
    this.#running = this.#run();
  }

  add(delivery: Delivery): void {
    this.#deliveries.set(delivery.partition, delivery);
    this.#settledAt = Date.now() + settlingMs;
    this.wake();
  }

  remove(delivery: Delivery): void {
    if (this.#deliveries.get(delivery.partition) === delivery) this.#deliveries.delete(delivery.partition);
  }

  /** A delivery has room again. */
  wake(): void {
    const waiting = this.#wake;
    this.#wake = [];
    for (const go of waiting) go();
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    this.#client?.cut();
    this.wake();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopped;
    const { log } = this.#options;
    const backoff = new Backoff(50, 2_000);
    let broken = false;
    const onFetched = () => {
      backoff.reset();
      if (broken) log.info('the log is read again');
      broken = false;
    };
    while (!signal.aborted) {
      await this.#untilSomethingToFetch(() => true);
      if (signal.aborted) return;
      const client = new Client(this.#options, this.#clientId);
      this.#client = client;
      try {
        await this.#session(client, onFetched);
      } catch (error) {
        if (signal.aborted) return;
        if (!broken) log.warn({ err: error }, `the log cannot be read, trying again: ${messageOf(error)}`);
        broken = true;
        await backoff.pause(signal);
      } finally {
        client.cut();
      }
    }
  }

  /** One fetch loop a leader, until the first fails. */
  async #session(client: Client, onFetched: () => void): Promise<void> {
    const { topic, partitions } = this.#options;
    const cluster = client.cluster();
    await cluster.connect();
    await cluster.addTargetTopic(topic);
    for (const delivery of this.#deliveries.values()) delivery.doubt();
    const leaders = Object.entries(cluster.findLeaderForPartitions(topic, numbers(partitions)));
    const loops = leaders.map(async ([nodeId, led]) => {
      try {
        await this.#fetchFrom(client, cluster, nodeId, new Set(led), onFetched);
      } finally {
        client.cut();
        this.wake();
      }
    });
    const failed = (await Promise.allSettled(loops)).find((loop) => loop.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async #fetchFrom(
    client: Client,
    cluster: Cluster,
    nodeId: string,
    led: ReadonlySet<number>,
    onFetched: () => void,
  ): Promise<void> {
    const { topic } = this.#options;
    while (!client.isCut) {
      await this.#untilSomethingToFetch((partition) => led.has(partition), client);
      const mine = [...this.#deliveries.values()].filter(({ partition }) => led.has(partition));
      const open = mine.filter(({ hasRoom }) => hasRoom);
      if (open.length === 0) continue;
      const hasty = open.length < mine.length || Date.now() < this.#settledAt;
      const wanted = open.map(({ partition, from }) => ({ partition, offset: from }));
      try {
        await failpoint('log.kafka.fetch.before');
        const found = await fetchOnce(cluster, topic, nodeId, wanted, hasty ? shortWaitMs : maxWaitMs);
        await failpoint('log.kafka.fetch.after');
        onFetched();
        for (const delivery of open) {
          // It may have been taken away, or replaced, while the fetch was under way.
          if (this.#deliveries.get(delivery.partition) === delivery) {
            delivery.push(found.find(({ partition }) => partition === delivery.partition));
          }
        }
      } catch (error) {
        if (!(error instanceof kafkajs.KafkaJSOffsetOutOfRange)) throw error;
        await this.#restart(cluster, error.partition);
      }
    }
  }

  async #untilSomethingToFetch(led: (partition: number) => boolean, client?: Client): Promise<void> {
    while (!this.#stopped.signal.aborted && client?.isCut !== true) {
      const mine = [...this.#deliveries.values()].filter(({ partition }) => led(partition));
      if (mine.some(({ hasRoom }) => hasRoom)) return;
      // While no fetch is under way no broker says that the topic is deleted.
      for (const delivery of mine) delivery.doubt();
      await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
  }

  async #restart(cluster: Cluster, partition: number): Promise<void> {
    const delivery = this.#deliveries.get(partition);
    if (delivery === undefined) return;
    const ends = (await readEnds(cluster, this.#options.topic, this.#options.partitions))[partition];
    if (ends !== undefined && this.#deliveries.get(partition) === delivery)
      delivery.outOfRange(ends.low, ends.high);
  }
}
