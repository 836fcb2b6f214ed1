import type { RpcTable } from '../rpc.ts';
import { parseArguments } from './arguments.ts';
import { objectNotFound } from './errors.ts';
import { withBucket } from './retry.ts';
import { objectJson } from './rows.ts';
import { deleteOne, putOne } from './single-writes.ts';
import { queryError } from './sql-errors.ts';
import { withPosition } from './standby.ts';
import type { Store } from './store.ts';

const handledByGet = ['noBucketCache', 'noCache', 'req_id', 'requireOnlineReindexing', 'timeout'];

/** putObject, getObject, delObject. A connection's calls share its signal: it stands for the connection as a source. */
export function objectRpcs(store: Store): RpcTable {
  const { database, registry, reads } = store;
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

    async getObject({ args, send, sendJson }) {
      const [name, key, options] = parseArguments('getObject', args, [
        ['bucket', 'string'],
        ['key', 'string'],
        ['options', 'options'],
      ]);
      const found = await withBucket(registry, name, options.noBucketCache === true, (bucket) =>
        options.standby ? reads.getAtStandby(bucket, key, options) : reads.get(bucket, key, options.timeout),
      ).catch((error: unknown) => {
        throw queryError(error);
      });
      if (options.internalOpts?.sendHandledOptions) await send([{ _handledOptions: handledByGet }]);
      if (found === undefined) throw objectNotFound(name, key);
      await sendJson([objectJson(name, found, null)]);
    },
  };
}
