import { setTimeout as sleep } from 'node:timers/promises';
import type { Consumer } from 'kafkajs';
import { messageOf } from '../../../runtime/errors.ts';
import { Backoff } from '../../backoff.ts';
import { stickyAssigner } from './assigner.ts';
import { Client, type KafkaOptions, patience } from './client.ts';

/** A member that is silent for this long has its partitions taken away; the broker's least is often 6 s. */
const sessionTimeout = 6_000;
const heartbeatInterval = 1_000;
/**
 * A member that has not heard of the group for this long has no partitions: others have them since the session's end.
 * No rebalance takes as long, and a coordinator that moved has mostly let us join again.
 */
const silenceMs = 2 * sessionTimeout;
/** How soon after a heartbeat is due it is sent. */
const tickMs = 250;
/** How long the others wait for a member that does not come back to a changing group. */
const rebalanceTimeout = 10_000;
const leaveMs = 3_000;

/** Partitions that are ours since `since`: another value of it means that they were somebody else's in between. */
export type Shares = ReadonlyMap<number, symbol>;

/**
 * This process's membership in a group. kafkajs' consumer keeps the membership only: its partitions are paused, so that
 * no handler can hold back a heartbeat. Whatever ends the consumer, another one takes its place until `leave`. What
 * was ours stays ours meanwhile, but not for long: nothing is, once the group was silent for `silenceMs`.
 */
export class Membership {
  readonly #options: KafkaOptions;
  readonly #group: string;
  readonly #member: string;
  readonly #onShares: (shares: Shares) => void;
  readonly #stopped = new AbortController();
  readonly #running: Promise<void>;
  /** As last assigned; what was lost since is asked for again. */
  #shares: Shares = new Map();
  #silence: NodeJS.Timeout | undefined;
  #memberId: string | undefined;
  /** How often we asked to join since the last assignment that reached us. */
  #joins = 0;
  #announceJoined: () => void = () => {};
  /** Resolves with the first assignment. */
  readonly joined: Promise<void>;

  constructor(options: KafkaOptions, group: string, member: string, onShares: (shares: Shares) => void) {
    this.#options = options;
    this.#group = group;
    this.#member = member;
    this.#onShares = onShares;
    this.joined = new Promise((resolve) => {
      this.#announceJoined = resolve;
    });
    this.#running = this.#run();
  }

  async leave(): Promise<void> {
    this.#stopped.abort();
    await this.#running;
    clearTimeout(this.#silence);
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopped;
    const { log } = this.#options;
    const backoff = new Backoff(100, 5_000);
    while (!signal.aborted) {
      const client = new Client(this.#options, this.#member);
      const consumer = this.#consumer(client);
      try {
        await this.#stay(consumer, () => backoff.reset());
      } catch (error) {
        if (signal.aborted) return;
        log.warn({ group: this.#group, err: error }, `membership lost, joining again: ${messageOf(error)}`);
        await backoff.pause(signal);
      } finally {
        // Leaving waits for the coordinator, which may be what is gone.
        await Promise.race([consumer.disconnect().catch(() => {}), sleep(leaveMs)]);
        client.cut();
      }
    }
  }

  #consumer(client: Client): Consumer {
    const { topic, partitions } = this.#options;
    return client.kafka.consumer({
      groupId: this.#group,
      sessionTimeout,
      heartbeatInterval,
      rebalanceTimeout,
      maxWaitTimeInMs: tickMs,
      allowAutoTopicCreation: false,
      partitionAssigners: [
        stickyAssigner(topic, partitions, () => {
          this.#joins++;
          return [...this.#shares.keys()];
        }),
      ],
      // A consumer that has failed is not started again: its successor looks for the coordinator anew.
      retry: { ...patience, restartOnFailure: async () => false },
    });
  }

  /** Resolves when we are to leave; rejects with what ended the membership. */
  async #stay(consumer: Consumer, onJoined: () => void): Promise<void> {
    const { topic } = this.#options;
    const { signal } = this.#stopped;
    let leave = () => {};
    let fail: (why: Error) => void = () => {};
    const over = new Promise<void>((resolve, reject) => {
      leave = resolve;
      fail = reject;
    });
    over.catch(() => {});
    signal.addEventListener('abort', leave);
    if (signal.aborted) leave();
    consumer.on(consumer.events.CRASH, ({ payload }) => fail(payload.error));
    consumer.on(consumer.events.HEARTBEAT, () => this.#heard(fail));
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      // Comes before the first fetch, which so finds nothing to do.
      consumer.pause([{ topic }]);
      onJoined();
      this.#heard(fail);
      this.#assigned(payload.memberId, payload.memberAssignment[topic] ?? []);
    });
    const start = async () => {
      await consumer.connect();
      await consumer.subscribe({ topics: [topic] });
      await consumer.run({ autoCommit: false, eachBatch: async () => {} });
    };
    try {
      await Promise.race([start(), over]);
      await over;
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  /** The group has us. Where this is the last we hear of it, what is ours ends, and with it this membership. */
  #heard(fail: (why: Error) => void): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      this.#options.log.warn(
        { group: this.#group },
        'nothing is heard of the group: giving all partitions up',
      );
      this.#memberId = undefined;
      this.#onShares(new Map());
      fail(new Error(`the group has been silent for ${silenceMs / 1000} s`));
    }, silenceMs);
  }

  /**
   * A partition stayed ours if we were a member all the time and saw every assignment that was made: the same member id,
   * and one request to join since the last.
   */
  #assigned(memberId: string, partitions: readonly number[]): void {
    const stayed = memberId === this.#memberId && this.#joins === 1;
    this.#memberId = memberId;
    this.#joins = 0;
    const before = this.#shares;
    this.#shares = new Map(
      partitions.map((partition) => [
        partition,
        (stayed && before.get(partition)) || Symbol(String(partition)),
      ]),
    );
    this.#options.log.info({ group: this.#group, partitions }, 'partitions assigned');
    this.#onShares(this.#shares);
    this.#announceJoined();
  }
}
