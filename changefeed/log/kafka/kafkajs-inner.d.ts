/**
 * The parts of kafkajs' inside that are used here; package.json pins the version. Cluster, for reading: kafkajs' public
 * consumer cannot read partitions without joining a group, and stops all partitions for one slow handler; it is built on
 * this class itself. RequestQueue, for repair.ts.
 */
declare module 'kafkajs/src/cluster/index.js' {
  import type { ISocketFactory, Logger, RetryOptions } from 'kafkajs';

  export interface FetchedMessage {
    readonly offset: string;
    readonly key: Buffer | null;
    readonly value: Buffer | null;
    readonly headers: Readonly<Record<string, Buffer | string | (Buffer | string)[] | undefined>>;
    readonly isControlRecord: boolean;
  }

  export interface FetchedPartition {
    readonly partition: number;
    readonly highWatermark: string;
    readonly messages: readonly FetchedMessage[];
  }

  export interface ClusterBroker {
    fetch(request: {
      readonly isolationLevel: 0 | 1;
      /** Milliseconds that the broker waits for `minBytes`. */
      readonly maxWaitTime: number;
      readonly minBytes: number;
      readonly maxBytes: number;
      readonly topics: readonly {
        readonly topic: string;
        readonly partitions: readonly {
          readonly partition: number;
          readonly fetchOffset: string;
          readonly maxBytes: number;
        }[];
      }[];
    }): Promise<{
      readonly responses: readonly {
        readonly topicName: string;
        readonly partitions: readonly FetchedPartition[];
      }[];
    }>;
  }

  export default class Cluster {
    constructor(options: {
      readonly logger: Logger;
      readonly socketFactory: ISocketFactory;
      readonly brokers: () => Promise<string[]>;
      readonly clientId: string;
      readonly connectionTimeout: number;
      readonly requestTimeout: number;
      readonly enforceRequestTimeout: boolean;
      readonly metadataMaxAge: number;
      readonly retry: RetryOptions;
      readonly allowAutoTopicCreation: boolean;
      readonly isolationLevel: 0 | 1;
    });
    connect(): Promise<void>;
    addTargetTopic(topic: string): Promise<void>;
    findBroker(node: { readonly nodeId: string }): Promise<ClusterBroker>;
    /** Node id to the partitions that it leads. */
    findLeaderForPartitions(topic: string, partitions: readonly number[]): Record<string, number[]>;
    /** The oldest offset of each partition (`fromBeginning`), or the one behind the newest record. */
    fetchTopicsOffset(
      topics: readonly {
        readonly topic: string;
        readonly partitions: readonly { readonly partition: number }[];
        readonly fromBeginning: boolean;
      }[],
    ): Promise<
      readonly {
        readonly topic: string;
        readonly partitions: readonly { readonly partition: number; readonly offset: string }[];
      }[]
    >;
  }
}

declare module 'kafkajs/src/network/requestQueue/index.js' {
  export default class RequestQueue {
    readonly pending: readonly unknown[];
    /** Milliseconds since 1970 until which the broker wants no request; -1: none. */
    readonly throttledUntil: number;
    throttleCheckTimeoutId: NodeJS.Timeout | null;
    checkPendingRequests(): void;
    scheduleCheckPendingRequests(): void;
  }
}
