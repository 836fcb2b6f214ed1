import type pg from 'pg';
import type { RpcCall, RpcTable } from '../rpc.ts';
import { type CallOptions, parseArguments } from './arguments.ts';
import type { Bucket } from './bucket.ts';
import { reading, streamTimeoutMs } from './database.ts';
import { exchangePages, type TextRow, timeLimit } from './exchange.ts';
import type { Filter } from './filter/ast.ts';
import { Parameters, typeOf } from './filter/compile.ts';
import { matches } from './filter/match.ts';
import { registryTable } from './identifiers.ts';
import { StaleBucket, withBucket } from './retry.ts';
import { type ObjectRow, objectColumns, objectJson, objectOf } from './rows.ts';
import { compileSearch, filterOf, requireIndexes, type Search } from './search.ts';
import { Slots } from './slots.ts';
import { queryError } from './sql-errors.ts';
import { readingAtStandby } from './standby.ts';
import type { Store } from './store.ts';

const handledOptions = [
  ...['req_id', 'limit', 'offset', 'sort', 'noLimit', 'no_count', 'sql_only', 'noBucketCache', 'timeout'],
  ...['requireOnlineReindexing', 'requireIndexes', 'snapshot', 'standby', 'minPosition'],
];
/** Rows that go into one message. */
const rowsPerMessage = 20;
const ordinaryLimit = 1000;
/** Searches that may wait for their turn. */
const maxWaiting = 4096;

/** What comes with every row: the search as a whole, seen in the same snapshot as the rows. */
interface Header {
  readonly count: number | null;
  readonly snapshot: string | null | undefined;
  readonly lsn: string | null | undefined;
}
const headerColumns = 4;

interface Query {
  readonly text: string;
  readonly values: readonly unknown[];
  readonly countText: string | undefined;
  readonly search: Search;
}

/**
 * One statement that answers at least one row: the header, joined with the rows that were found. With `snapshot`, the
 * position is taken while the statement runs, so it is behind every commit that the statement sees. The text depends on
 * the filter's form and not on its values, so searches of one form share a prepared statement.
 */
function compose(bucket: Bucket, filter: Filter, options: CallOptions): Query {
  const parameters = new Parameters();
  const search = compileSearch(bucket, filter, options, parameters);
  const from = `FROM ${bucket.table} WHERE ${search.sql}`;
  const countText = options.no_count ? undefined : `SELECT count(*) ${from}`;
  const name = parameters.add(bucket.name, 'text');
  const generation = parameters.add(bucket.generation, 'bigint');
  // Of a standby neither says what this read saw.
  const snapshot =
    options.snapshot && !options.standby
      ? 'pg_current_snapshot()::text AS snapshot, pg_current_wal_insert_lsn()::text AS lsn'
      : 'NULL AS snapshot, NULL AS lsn';
  const text = `
    SELECT h.*, r.* FROM (
      SELECT EXISTS (SELECT FROM ${registryTable} WHERE name = ${name} AND generation = ${generation}) AS fresh,
        ${countText === undefined ? 'NULL' : `(${countText})`} AS count, ${snapshot}
    ) h LEFT JOIN (SELECT ${objectColumns(bucket)} ${from} ${search.tail}) r ON h.fresh`;
  return { text, values: parameters.values, countText, search };
}

/** The object and its metadata, as filters on fields without an index see it. */
function searchable(row: ObjectRow): Record<string, unknown> {
  const { key, value, _id, _etag, _mtime, _txn_snap } = objectOf('', row, null);
  return { ...value, _key: key, _id, _etag, _mtime, _txn_snap };
}

/** @throws StaleBucket where the statement found another generation of the bucket */
function headerOf(bucket: Bucket, [fresh, count, snapshot, lsn]: TextRow): Header {
  if (fresh !== 't') throw new StaleBucket(bucket);
  return { count: count == null ? null : Number(count), snapshot, lsn };
}

/** Whether it may answer more than an ordinary find. */
function isStream(options: CallOptions): boolean {
  const limit = Number(options.limit ?? 0);
  return limit > ordinaryLimit || (options.noLimit === true && limit === 0);
}

function timeoutOf(options: CallOptions): number | undefined {
  return options.timeout || (isStream(options) ? streamTimeoutMs : undefined);
}

/** findObjects. */
export function findRpcs(store: Store): RpcTable {
  const { readers, streams, standbys } = store.database;
  // A find waits for its client with its connection in its hands. One connection is left to what waits for nobody.
  const ordinary = new Slots(Math.max(1, readers.max - 1), maxWaiting);
  const atStandbys = new Slots(Math.max(1, standbys.max - 1), maxWaiting);

  async function run(call: RpcCall, bucket: Bucket, query: Query, options: CallOptions): Promise<void> {
    const { residual } = query.search;
    const types = (attribute: string) => typeOf(bucket, attribute);
    let header: Header | undefined;

    const take = async (rows: TextRow[]) => {
      const objects: string[] = [];
      for (const row of rows) {
        header ??= headerOf(bucket, row);
        if (row[headerColumns] === null) continue;
        const found = row.slice(headerColumns) as ObjectRow;
        if (residual !== undefined && !matches(residual, searchable(found), types)) continue;
        objects.push(objectJson(bucket.name, found, header.count ?? undefined));
      }
      for (let i = 0; i < objects.length; i += rowsPerMessage) {
        await call.sendJson(objects.slice(i, i + rowsPerMessage));
      }
      return !call.signal.aborted;
    };

    const timeout = timeoutOf(options);
    const statements = [
      ...(timeout === undefined ? [] : [timeLimit(timeout)]),
      { text: query.text, values: query.values.map(String) },
    ];
    const begun = () => header !== undefined;
    const search = async (client: pg.PoolClient) => {
      // It may have waited for long.
      call.signal.throwIfAborted();
      await exchangePages(client, statements, take);
    };
    const atPrimary = () =>
      isStream(options)
        ? reading(streams, search, begun)
        : ordinary.run(() => reading(readers, search, begun));
    if (options.standby) {
      await atStandbys.run(() => readingAtStandby(store.database, options, search, atPrimary, begun));
    } else {
      await atPrimary();
    }
    if (options.snapshot && header !== undefined && !call.signal.aborted) {
      const { count, snapshot, lsn } = header;
      await call.send([{ _snapshot: snapshot, _lsn: lsn, _count: count }]);
    }
  }

  return {
    async findObjects(call) {
      const [name, text, options] = parseArguments('findObjects', call.args, [
        ['bucket', 'string'],
        ['filter', 'string'],
        ['options', 'options'],
      ]);
      const filter = filterOf(text);
      let announced = !options.internalOpts?.sendHandledOptions;
      try {
        await withBucket(store.registry, name, options.noBucketCache === true, async (bucket) => {
          if (options.requireIndexes || options.requireOnlineReindexing) requireIndexes(bucket, filter, text);
          const query = compose(bucket, filter, options);
          if (!announced) await call.send([{ _handledOptions: handledOptions }]);
          announced = true;
          if (options.sql_only) {
            const { text: sql, values: args, countText } = query;
            await call.send([{ ...(countText === undefined ? {} : { count: countText }), query: sql, args }]);
            return;
          }
          await run(call, bucket, query, options);
        });
      } catch (error) {
        throw queryError(error);
      }
    },
  };
}
