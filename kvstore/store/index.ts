import type { Logger } from '../../runtime/log.ts';
import type { Hook } from '../hooks/hook.ts';
import { Hooks } from '../hooks/hooks.ts';
import type { RpcTable } from '../rpc.ts';
import { batchRpcs } from './batch.ts';
import { BucketBell } from './bucket-bell.ts';
import { bucketRpcs } from './bucket-rpcs.ts';
import { openDatabase } from './database.ts';
import { findRpcs } from './find.ts';
import { GroupCommit } from './group-commit.ts';
import { GroupRead } from './group-read.ts';
import { IndexBuilder } from './index-builder.ts';
import { listenRpcs } from './listen-rpcs.ts';
import { manyRpcs } from './many.ts';
import { metaRpcs, ping } from './meta-rpcs.ts';
import { Notifications } from './notifications.ts';
import { objectRpcs } from './object-rpcs.ts';
import { Registry } from './registry.ts';
import { reindexRpcs } from './reindex.ts';
import { initialiseSchema } from './schema.ts';
import { type SlotOptions, SlotWatch } from './slot-watch.ts';
import type { Store } from './store.ts';

export interface StoreOptions {
  /** URL of PostgreSQL; of all hosts, comma-separated, where it has a standby. */
  readonly url: string;
  /** Connections to keep to it; half of them for writes. */
  readonly poolSize: number;
  readonly log: Logger;
  /** Whether clients are trusted with Moray's `sql` call, and with hooks that are code. */
  readonly sql: boolean;
  /** Hooks that buckets may name. */
  readonly hooks?: ReadonlyMap<string, Hook>;
  /** The changefeed's slot, where the WAL that it holds is to be looked at. */
  readonly slot?: SlotOptions;
}

export interface OpenStore {
  /** Every call that the store answers, by Moray's name of it. */
  readonly rpcs: RpcTable;
  /** @throws NoDatabasePeersError where PostgreSQL does not answer */
  ping(): Promise<void>;
  /** What is wrong but hinders no call; undefined where nothing is. */
  warning(): string | undefined;
  /** Ends every listener with an error, so that no call waits for more when the server is to end. */
  endListeners(): void;
  close(): Promise<void>;
}

/**
 * Opens Moray's store on a PostgreSQL, and makes its registry of buckets where it is missing. Any number of servers
 * may do so on one PostgreSQL.
 * @throws NoDatabasePeersError
 */
export async function createStore(options: StoreOptions): Promise<OpenStore> {
  const { url, poolSize, log, sql } = options;
  const database = openDatabase(url, poolSize, log);
  try {
    await initialiseSchema(database.readers);
  } catch (error) {
    await database.close();
    throw error;
  }
  const registry = new Registry(database.readers);
  const maxGroups = Math.max(2, database.writers.max - 1);
  const group = new GroupCommit(database, registry, maxGroups);
  const reads = new GroupRead(database);
  const hooks = new Hooks(options.hooks ?? new Map(), sql);
  const bell = new BucketBell(new Notifications(database.finder, 'conger-kvstore bell'), log);
  const builder = new IndexBuilder(database.builders, log);
  bell.on((bucket) => {
    registry.changed(bucket);
    builder.wake();
  });
  bell.open();
  const watch = options.slot && new SlotWatch(options.slot, database.readers, log);
  const store: Store = { database, registry, bell, group, reads, hooks, log };
  const listening = listenRpcs(store);
  return {
    rpcs: {
      ...bucketRpcs(store),
      ...objectRpcs(store),
      ...findRpcs(store),
      ...manyRpcs(store),
      ...batchRpcs(store),
      ...reindexRpcs(store),
      ...listening.rpcs,
      ...metaRpcs(store, sql),
    },
    endListeners: listening.close,
    ping: () => ping(store),
    warning: () => watch?.warning,
    close: async () => {
      listening.close();
      await Promise.all([bell.close(), builder.close(), watch?.close()]);
      await database.close();
    },
  };
}
