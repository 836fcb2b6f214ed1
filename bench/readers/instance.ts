import { startBroadcast } from '../../changefeed/broadcast.ts';
import { httpFeed } from '../../changefeed/feeds/http.ts';
import { openLogReader } from '../../changefeed/log/index.ts';
import { loadConfig } from '../../runtime/config.ts';
import { silentLogger } from '../../runtime/log.ts';
import { createHttp } from '../../services/common/http.ts';
import { backlog } from '../../services/common/service.ts';
import { now } from '../feed/clock.ts';

/** What an instance has used so far. */
export interface Usage {
  /** Bytes, after a collection of garbage. */
  readonly rss: number;
  readonly heapUsed: number;
  /** When it was asked, and when it answered: it is the collection that is between. */
  readonly cpu: { readonly asked: NodeJS.CpuUsage; readonly answered: NodeJS.CpuUsage };
  readonly readers: number;
  /** Snapshots that were read from the store. */
  readonly finds: number;
  /** When batches came from the log, since this was last asked. */
  readonly arrivals: readonly number[];
}

// An instance: a service's HTTP server with a feed of one resource, on the log that the environment names. Its parent
// says how many changes it holds, and is told what it uses whenever it asks.
const log = silentLogger();
const opened = await openLogReader(loadConfig(), log);
let arrivals: number[] = [];
const reader = Object.assign(Object.create(opened) as typeof opened, {
  partitions: opened.partitions,
  locate: opened.locate.bind(opened),
  readFrom: opened.readFrom.bind(opened),
  readAll: (tail: number, ...[onBatch, onGap]: Rest<typeof opened.readAll>) =>
    opened.readAll(
      tail,
      (batch) => {
        arrivals.push(now());
        return onBatch(batch);
      },
      onGap,
    ),
});
const maxChanges = Number(process.argv[2]);
const broadcast = await startBroadcast({ reader, log, maxChanges, tail: Math.min(100, maxChanges) });
const app = await createHttp({ name: 'vmapi', instance: 'bench', log });
let finds = 0;
const kv = {
  find: async () => {
    finds++;
    return { objects: [], count: 0, snapshot: '1:1:', lsn: '0/0' };
  },
};
const thing = {
  bucket: 'things',
  all: '(state=*)',
  index: { state: { type: 'string' } },
  present: (value: unknown) => value,
} as const;
await app.register(httpFeed, { broadcast, kv, resources: { thing } });
process.on('message', async () => {
  const asked = process.cpuUsage();
  // What ended with the last connections is collected in several steps.
  for (let i = 0; i < 4; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const { rss, heapUsed } = process.memoryUsage();
  const cpu = { asked, answered: process.cpuUsage() };
  const usage: Usage = { rss, heapUsed, cpu, readers: broadcast.readers, finds, arrivals };
  arrivals = [];
  process.send?.(usage);
});
process.send?.({ url: await app.listen({ host: '127.0.0.1', port: 0, backlog }) });
process.once('disconnect', () => process.exit());

type Rest<F> = F extends (first: never, ...rest: infer R) => unknown ? R : never;
