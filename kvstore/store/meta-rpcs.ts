import type pg from 'pg';
import { CongerError } from '../../runtime/errors.ts';
import type { RpcTable } from '../rpc.ts';
import { parseArguments } from './arguments.ts';
import { reading, transaction } from './database.ts';
import { notify } from './listen-rpcs.ts';
import { queryError } from './sql-errors.ts';
import { limitStatements, type Store } from './store.ts';

/** Moray's version of the protocol that is spoken here. */
const apiVersion = 2;

/** How Moray's client notifies, which needs no more trust than listening does. */
const notifyStatement = 'select pg_notify($1, $2)';

/** Whether PostgreSQL answers. */
export async function ping(store: Store): Promise<void> {
  await reading(store.database.readers, (client) => client.query('SELECT 1'));
}

/** ping, version, getTokens, sql. */
export function metaRpcs(store: Store, sqlAllowed: boolean): RpcTable {
  return {
    async ping({ args }) {
      const [options] = parseArguments('ping', args, [['options', 'options']]);
      if (options.deep) await ping(store);
    },

    async version({ args, send }) {
      parseArguments('version', args, [['options', 'options']]);
      await send([{ version: apiVersion }]);
    },

    async getTokens({ args }) {
      parseArguments('getTokens', args, [['options', 'options']]);
      throw new CongerError('UnsupportedError', 'Operation not supported');
    },

    async sql({ args, send }) {
      const [statement, values, options] = parseArguments('sql', args, [
        ['statement', 'string'],
        ['values', 'array'],
        ['options', 'options'],
      ]);
      const [channel, payload] = values;
      if (statement === notifyStatement && typeof channel === 'string' && typeof payload === 'string') {
        await notify(store, channel, payload);
        await send([{ pg_notify: '' }]);
        return;
      }
      if (!sqlAllowed) throw new CongerError('OperationNotAllowedError', 'sql is not enabled on this server');
      try {
        const rows = await transaction(store.database.readers, async (client) => {
          if (options.timeout) await limitStatements(client, options.timeout);
          // With values as a prepared statement: one statement, which cannot end the transaction around it.
          const answer: pg.QueryResult | readonly pg.QueryResult[] = await client.query({
            text: statement,
            values: [...values],
          });
          return [answer].flat().flatMap((result): unknown[] => result.rows ?? []);
        });
        for (const row of rows) await send([row]);
      } catch (error) {
        throw queryError(error);
      }
    },
  };
}
