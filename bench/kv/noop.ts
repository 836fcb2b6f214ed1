import { FastServer } from '../../kvstore/fast/server.ts';
import { silentLogger } from '../../runtime/log.ts';
import { keyOf, objectOf } from './objects.ts';

/**
 * A process that answers the calls from memory, with nothing behind it: what is measured against it is the client's own
 * limit, and the wire's.
 */
const object = { bucket: 'bench', key: keyOf(1), value: objectOf(1), _id: 1, _etag: 'AAAAAAAA', _mtime: 0 };
const rows = (count: number) => Array.from({ length: count }, () => ({ ...object, _count: count }));

const server = await FastServer.listen({
  host: '127.0.0.1',
  port: 0,
  log: silentLogger(),
  rpcs: {
    putObject: ({ send }) => send([{ etag: 'AAAAAAAA' }]),
    getObject: ({ send }) => send([object]),
    findObjects: async ({ args, send }) => {
      const hundred = String(args[1]).startsWith('(&');
      for (let i = 0; i < (hundred ? 5 : 1); i++) await send(rows(hundred ? 20 : 1));
    },
    batch: ({ send }) =>
      send([{ etags: rows(10).map(({ bucket, key, _etag: etag }) => ({ bucket, key, etag })) }]),
    ping: async () => {},
    version: ({ send }) => send([{ version: 2 }]),
  },
});
process.send?.(server.port);
process.once('disconnect', () => process.exit());
