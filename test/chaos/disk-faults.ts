import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { hostsOf } from '../../runtime/postgres/hosts.ts';
import type { Cluster } from './cluster.ts';
import type { Fault } from './faults.ts';

async function inDatabase<T>({ config }: Cluster, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: hostsOf(config.postgres)[0] });
  client.on('error', () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}

function disksOf({ fixtures }: Cluster) {
  if (fixtures.disks === undefined) throw new Error('there are no small disks');
  return fixtures.disks;
}

/** Disks that are full to the last byte, and then are not. */
export const disk: Readonly<Record<string, Fault>> = {
  /** That of the tables: statements fail with 53100 (disk_full), those of writers and of the embedded log. */
  tables: async (cluster, random) => {
    const { tables } = disksOf(cluster);
    await inDatabase(cluster, async (client) => {
      await tables.fill();
      try {
        // Nobody can have any more of it from here on.
        const error = await client
          .query('CREATE TABLE too_much AS SELECT repeat(n::text, 100) FROM generate_series(1, 100000) n')
          .then(
            () => undefined,
            (error: unknown) => error,
          );
        if (!(error instanceof pg.DatabaseError) || error.code !== '53100')
          throw new Error('the disk is not full', { cause: error });
        await sleep(3_000 + random.below(4_000));
      } finally {
        await tables.empty();
      }
    });
  },
  /** That where captures keep large transactions: none fits on it, nor a part of one. */
  spool: async (cluster, random) => {
    const { spool } = disksOf(cluster);
    await spool.fill();
    await sleep(3_000 + random.below(4_000));
    await spool.empty();
  },
  /** That of the WAL: PostgreSQL panics, and cannot recover before there is room. */
  wal: async (cluster, random) => {
    const { wal } = disksOf(cluster);
    const { postgres } = cluster.fixtures;
    await wal.fill();
    try {
      // Until it is where no next segment can be made.
      for (let n = 0; ; n++) {
        if (n === 100) throw new Error('PostgreSQL finds room for WAL');
        const sql = "SELECT pg_logical_emit_message(false, 'chaos', ''), pg_switch_wal()";
        const written = await postgres.query(sql).then(
          () => true,
          () => false,
        );
        if (!written) break;
      }
      await sleep(1_000 + random.below(2_000));
    } finally {
      await wal.empty();
    }
    // It may have given up to recover.
    for (let tries = 0; ; tries++) {
      await postgres.start();
      const answers = await postgres.query('SELECT').then(
        () => true,
        () => false,
      );
      if (answers) return;
      if (tries === 300) throw new Error('PostgreSQL does not come back');
      await sleep(100);
    }
  },
};
