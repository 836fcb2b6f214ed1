import { createKv } from '../../kvstore/client.ts';
import type { Kv } from '../../kvstore/types.ts';
import { silentLogger } from '../../runtime/log.ts';
import { startKvstore } from '../../test/fixtures/kvstore.ts';
import { startPostgres } from '../../test/fixtures/postgres.ts';
import { startProxy } from '../../test/fixtures/proxy.ts';
import { Capture } from '../capture/capture.ts';
import { createEmbeddedReader, createEmbeddedWriter } from '../log/embedded/index.ts';
import type { LogReader } from '../types.ts';

const log = silentLogger();

/** What one process reaches the KV tier and the log through: addresses of its own, that can be broken. */
export interface Link {
  /** `tcp://127.0.0.1:<port>` */
  readonly kvstore: string;
  readonly postgres: string;
  /** Breaks every connection; they come back. */
  cut(): void;
  /** Ends its connections to the log alone: the group goes on without it, and it can still write. */
  loseLog(): void;
  /** As kill -9 looks to everyone else: it is not heard of again. */
  kill(): void;
  close(): Promise<void>;
}

/** A process that uses the KV tier and the log over a link. */
export interface TestProcess extends Pick<Link, 'cut' | 'loseLog' | 'kill' | 'close'> {
  readonly kv: Kv;
  readonly reader: LogReader;
}

/** PostgreSQL, a kvstore server, the capture and the embedded log, all real. */
export interface Road {
  readonly kv: Kv;
  readonly postgres: string;
  link(): Promise<Link>;
  process(): Promise<TestProcess>;
  close(): Promise<void>;
}

export async function startRoad(partitions: number): Promise<Road> {
  const postgres = await startPostgres({ fsync: 'off' });
  const capture = new Capture({
    postgres: postgres.url,
    slot: 'conger',
    partitions,
    openWriter: async () =>
      createEmbeddedWriter({
        postgres: postgres.url,
        partitions,
        retainMs: 3_600_000,
        retainRecords: 1_000_000,
        log,
      }),
    log,
  });
  await capture.start();
  const kvstore = await startKvstore(postgres.url);
  const kv = createKv({ servers: [kvstore.url], log });

  const link = async (): Promise<Link> => {
    const toLog = await startProxy(Number(new URL(postgres.url).port));
    const toKv = await startProxy(kvstore.port);
    const url = new URL(postgres.url);
    url.port = String(toLog.port);
    return {
      kvstore: `tcp://127.0.0.1:${toKv.port}`,
      postgres: url.href,
      cut: () => {
        toLog.cut();
        toKv.cut();
      },
      loseLog: () => toLog.refuse(),
      kill: () => {
        toLog.refuse();
        toKv.refuse();
      },
      close: async () => {
        await Promise.all([toLog.close(), toKv.close()]);
      },
    };
  };

  const process = async (): Promise<TestProcess> => {
    const own = await link();
    const ownKv = createKv({ servers: [own.kvstore], log });
    const reader = await createEmbeddedReader({ postgres: own.postgres, partitions, log });
    const close = async () => {
      await Promise.all([reader.close(), ownKv.close()]);
      await own.close();
    };
    return { ...own, kv: ownKv, reader, close };
  };

  return {
    kv,
    postgres: postgres.url,
    link,
    process,
    close: async () => {
      await kv.close();
      await capture.stop();
      await kvstore.stop();
      await postgres.stop();
    },
  };
}
