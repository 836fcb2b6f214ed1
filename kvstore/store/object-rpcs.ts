import type { RpcTable } from '../rpc.ts';
import { parseArguments } from './arguments.ts';
import { objectNotFound } from './errors.ts';
import { withBucket } from './retry.ts';
import { objectJson } from './rows.ts';
import { deleteOne, putOne } from './single-writes.ts';
import { Slots } from './slots.ts';
import { queryError } from './sql-errors.ts';
import { withPosition } from './standby.ts';
import type { Store } from './store.ts';

/**
 * Objects that are read for one connection at a time, until it has taken them: the others of its calls wait. More would
 * not be in flight to PostgreSQL at once (group-read.ts), and a client that does not read could have gigabytes read for it.
 */
const getsPerConnection = 64;
const maxWaiting = 4096;

const handledByGet = ['noBucketCache', 'noCache', 'req_id', 'requireOnlineReindexing', 'timeout'];

/** putObject, getObject, delObject. A connection's calls share its signal: it stands for the connection as a source. */
export function objectRpcs(store: Store): RpcTable {
  const { database, registry, reads } = store;
  const gets = new WeakMap<AbortSignal, Slots>();

  function getsOf(connection: AbortSignal): Slots {
    let slots = gets.get(connection);
    if (slots === undefined) {
      slots = new Slots(getsPerConnection, maxWaiting);
      gets.set(connection, slots);
    }
    return slots;
  }

  return {
    async putObject({ args, send, signal }) {
      const [name, key, value, options] = parseArguments('putObject', args, [
        ['bucket', 'string'],
        ['key', 'string'],
        ['value', 'object'],
        ['options', 'options'],
      ]);
      const answer = { etag: await putOne(store, signal, name, key, value, options) };
      await send([options.position ? await withPosition(database, options, answer) : answer]);
    },

    async delObject({ args, send, signal }) {
      const [name, key, options] = parseArguments('delObject', args, [
        ['bucket', 'string'],
        ['key', 'string'],
        ['options', 'options'],
      ]);
      await deleteOne(store, signal, name, key, options);
      await send([await withPosition(database, options, {})]);
    },

    async getObject({ args, send, sendJson, signal }) {
      const [name, key, options] = parseArguments('getObject', args, [
        ['bucket', 'string'],
        ['key', 'string'],
        ['options', 'options'],
      ]);
      await getsOf(signal).run(async () => {
        signal.throwIfAborted();
        const found = await withBucket(registry, name, options.noBucketCache === true, (bucket) =>
          options.standby
            ? reads.getAtStandby(bucket, key, options)
            : reads.get(bucket, key, options.timeout),
        ).catch((error: unknown) => {
          throw queryError(error);
        });
        if (options.internalOpts?.sendHandledOptions) await send([{ _handledOptions: handledByGet }]);
        if (found === undefined) throw objectNotFound(name, key);
        await sendJson([objectJson(name, found, null)]);
      });
    },
  };
}
