import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { hostsOf } from '../../runtime/postgres/hosts.ts';
import type { Fault } from './faults.ts';
import { bucket } from './resources.ts';

/** WAL that a slot may hold; more than a run writes. */
export const slotKeepMb = 256;

/** The replication slot goes, and with it the changes that nobody has read. */
export const slot: Readonly<Record<string, Fault>> = {
  drop: async ({ fixtures, config }) => {
    for (let tries = 0; ; tries++) {
      try {
        await fixtures.postgres.query(
          `SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
            WHERE slot_name = '${config.captureSlot}' AND active_pid IS NOT NULL`,
        );
        await fixtures.postgres.query(`SELECT pg_drop_replication_slot('${config.captureSlot}')`);
        return;
      } catch (error) {
        // The capture was faster, and reads again.
        if (tries === 50) throw error;
      }
    }
  },
  /** No capture reads for so long that PostgreSQL gives the slot up (max_slot_wal_keep_size). */
  invalidate: async ({ fixtures, config, processes }) => {
    const captures = processes.filter(({ kind }) => kind === 'capture');
    const lost = async () => {
      const rows = await fixtures.postgres.query(
        `SELECT FROM pg_replication_slots WHERE slot_name = '${config.captureSlot}' AND wal_status = 'lost'`,
      );
      return rows.length > 0;
    };
    for (const capture of captures) capture.pause();
    for (let tries = 0; !(await lost()); tries++) {
      if (tries === 5) throw new Error('PostgreSQL does not give the slot up');
      for (let mb = 0; mb < slotKeepMb + 32; mb += 16) {
        await fixtures.postgres.query("SELECT pg_logical_emit_message(false, 'chaos', ''), pg_switch_wal()");
      }
      await fixtures.postgres.query('CHECKPOINT');
    }
    for (const capture of captures) capture.resume();
  },
};

/** A transaction stays open while others come and go, and captures begin anew behind it. */
export const transaction: Readonly<Record<string, Fault>> = {
  open: async ({ config, processes }, random) => {
    const client = new pg.Client({ connectionString: hostsOf(config.postgres)[0] });
    client.on('error', () => {});
    await client.connect();
    try {
      await client.query('CREATE TABLE IF NOT EXISTS open_for_long (n int)');
      await client.query('BEGIN');
      await client.query('INSERT INTO open_for_long VALUES (1)');
      await sleep(1_000 + random.below(1_000));
      for (const process of processes.filter(({ kind }) => kind === 'capture')) process.kill();
      await sleep(2_000 + random.below(3_000));
      await client.query('INSERT INTO open_for_long VALUES (2)');
      await client.query(random.below(2) === 0 ? 'COMMIT' : 'ROLLBACK');
    } finally {
      await client.end();
    }
  },
};

/** The bucket gets a new version, with one more index, while it is written. Once a run. */
export const schema: Readonly<Record<string, Fault>> = {
  change: async ({ kv }) => {
    await kv.ensureBucket(bucket, {
      index: { owner: { type: 'string' }, id: { type: 'string' } },
      options: { version: 2, partition: 'owner' },
    });
  },
};
