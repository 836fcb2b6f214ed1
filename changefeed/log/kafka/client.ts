import { connect, Socket } from 'node:net';
import { type ISocketFactory, Kafka, type LogEntry, logLevel, type RetryOptions } from 'kafkajs';
import Cluster from 'kafkajs/src/cluster/index.js';
import type { Logger } from '../../../runtime/log.ts';
import './repair.ts';

/** What a Kafka log is made of; writers and readers are given the same. */
export interface KafkaOptions {
  /** `host:port` of some brokers; the others are found through these. */
  readonly brokers: readonly string[];
  readonly topic: string;
  /** Partitions of the topic; it is created with as many, and refused when it has another number. */
  readonly partitions: number;
  /** Replication factor, should the topic be created. */
  readonly replicas: number;
  /** How long the topic keeps a record, should it be created, and how many bytes of each replica; absent: no bound. */
  readonly retainMs?: number;
  readonly retainBytes?: number;
  readonly log: Logger;
  /** Opens a connection; Node's own by default. */
  readonly dial?: (host: string, port: number) => Socket;
}

/** Some five seconds: a broker's restart mostly passes unnoticed, and one that stays away is noticed. */
export const patience = {
  initialRetryTime: 100,
  multiplier: 2,
  maxRetryTime: 1_000,
  factor: 0.2,
  retries: 7,
} satisfies RetryOptions;

const connectionTimeout = 2_000;
const requestTimeout = 10_000;

/**
 * One client of Kafka's brokers. Holds its sockets, so that after `cut` nothing that kafkajs still retries can reach a
 * broker: what was asked for before is refused at once, a record that was not sent stays unsent, and kafkajs, which then
 * is told of no broker at all, gives up.
 */
export class Client {
  readonly kafka: Kafka;
  readonly #options: KafkaOptions;
  readonly #clientId: string;
  readonly #sockets = new Set<Socket>();
  #cut = false;

  constructor(options: KafkaOptions, clientId: string, retry: RetryOptions = patience) {
    this.#options = options;
    this.#clientId = clientId;
    this.kafka = new Kafka({
      brokers: this.#brokers,
      clientId,
      connectionTimeout,
      requestTimeout,
      socketFactory: this.#socket,
      retry,
      ...quiet(options.log),
    });
  }

  /** kafkajs' inner client, for reads outside of a group. It tries nothing twice: that is for its user. */
  cluster(): Cluster {
    return new Cluster({
      logger: this.kafka.logger(),
      socketFactory: this.#socket,
      brokers: this.#brokers,
      clientId: this.#clientId,
      connectionTimeout,
      requestTimeout,
      enforceRequestTimeout: true,
      metadataMaxAge: 300_000,
      retry: { retries: 0 },
      allowAutoTopicCreation: false,
      isolationLevel: 0,
    });
  }

  get isCut(): boolean {
    return this.#cut;
  }

  cut(): void {
    this.#cut = true;
    for (const socket of this.#sockets) socket.destroy(new Error('the connection was given up'));
  }

  readonly #brokers = async () => (this.#cut ? [] : [...this.#options.brokers]);

  readonly #socket: ISocketFactory = ({ host, port, onConnect }) => {
    if (this.#cut) return new Socket().destroy(new Error('the connection was given up'));
    const socket = (this.#options.dial ?? dial)(host, port);
    socket.once('connect', onConnect);
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    return socket;
  };
}

function dial(host: string, port: number): Socket {
  return connect({ host, port, noDelay: true, keepAlive: true });
}

/**
 * kafkajs logs as an error each attempt of what it goes on to retry. What stays wrong reaches its caller, who logs it;
 * kafkajs' own words are for debugging.
 */
function quiet(log: Logger) {
  return {
    logLevel: log.isLevelEnabled('debug') ? logLevel.INFO : logLevel.NOTHING,
    logCreator: () => (entry: LogEntry) => {
      const { message, timestamp: _, ...rest } = entry.log;
      log.debug({ kafkajs: { ...rest, label: entry.label, namespace: entry.namespace } }, message);
    },
  };
}
