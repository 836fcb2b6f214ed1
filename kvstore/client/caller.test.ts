import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CongerError, type ErrorCode } from '../../runtime/errors.ts';
import { silentLogger } from '../../runtime/log.ts';
import { newTrace, withTrace } from '../../runtime/trace.ts';
import { FastServer } from '../fast/server.ts';
import type { RpcHandler, RpcTable } from '../rpc.ts';
import { Caller, type Settle } from './caller.ts';
import { Objects } from './objects.ts';
import { Servers } from './servers.ts';

/** Two servers whose procedures fail as often as `failures` tells, and then answer which of them it was. */
let failures: ErrorCode[];
let asked: { server: number; rpc: string; args: readonly unknown[] }[];
let fast: FastServer[];
let servers: Servers;
let caller: Caller;
const log = silentLogger();

beforeEach(async () => {
  failures = [];
  asked = [];
  const table = (server: number): RpcTable => {
    const answering =
      (rpc: string): RpcHandler =>
      async ({ args, send }) => {
        asked.push({ server, rpc, args });
        const failure = failures.shift();
        if (failure !== undefined) throw new CongerError(failure, `no: ${failure}`, { context: { server } });
        await send([server]);
      };
    return Object.fromEntries(['work', 'putObject', 'getObject'].map((rpc) => [rpc, answering(rpc)]));
  };
  const listen = (server: number) =>
    FastServer.listen({ rpcs: table(server), log, host: '127.0.0.1', port: 0 });
  fast = await Promise.all([listen(0), listen(1)]);
  servers = new Servers(
    fast.map((server) => `tcp://127.0.0.1:${server.port}`),
    log,
  );
  caller = new Caller(servers, log, 30_000);
  // Both are connected once each has answered.
  const reached = new Set<unknown>();
  while (reached.size < 2) for (const server of await work()) reached.add(server);
  asked = [];
});

afterEach(async () => {
  await servers.close();
  await Promise.all(fast.map((server) => server.close(0)));
});

function work(settle?: Settle, deadlineMs?: number): Promise<readonly unknown[]> {
  return caller.call({
    rpc: 'work',
    args: (options) => ['arg', options],
    ...(settle === undefined ? {} : { settle }),
    ...(deadlineMs === undefined ? {} : { deadlineMs }),
  });
}

const never: Settle = async () => {
  throw new Error('nothing is to be settled');
};

describe('a server that cannot serve now', () => {
  test.each<ErrorCode>(['NoDatabasePeersError', 'OverloadedError'])('%s: another is asked', async (code) => {
    failures = [code];
    await work(never);
    expect(new Set(asked.map((a) => a.server))).toEqual(new Set([0, 1]));
  });

  test('the last error stands once the deadline has passed', async () => {
    failures = Array(1000).fill('NoDatabasePeersError');
    await expect(work(never, 1_000)).rejects.toMatchObject({ code: 'NoDatabasePeersError' });
    expect(asked.length).toBeGreaterThan(1);
    expect(asked.length).toBeLessThan(40);
  });
});

describe('errors that are answers', () => {
  test.each<ErrorCode>(['EtagConflictError', 'InvalidQueryError', 'QueryTimeoutError', 'InternalError'])(
    '%s is not tried again',
    async (code) => {
      failures = [code];
      await expect(work(never)).rejects.toMatchObject({ code, context: { server: expect.any(Number) } });
      expect(asked).toHaveLength(1);
    },
  );
});

describe('a write whose outcome is unknown', () => {
  test('ends well when the second try does', async () => {
    failures = ['UnknownOutcomeError'];
    await work(never);
    expect(asked).toHaveLength(2);
  });

  test('is settled when a later try meets a conflict', async () => {
    failures = ['UnknownOutcomeError', 'OverloadedError', 'EtagConflictError'];
    const settled: string[] = [];
    const result = await work(async (conflict) => {
      settled.push(conflict.code);
      return ['settled'];
    });
    expect(result).toEqual(['settled']);
    expect(settled).toEqual(['EtagConflictError']);
  });

  test('stays unknown when the deadline passes, whatever came last', async () => {
    failures = ['UnknownOutcomeError', ...Array<ErrorCode>(1000).fill('OverloadedError')];
    await expect(work(never, 100)).rejects.toMatchObject({ code: 'UnknownOutcomeError' });
  });

  test('fails as the second try does where the first has met the same', async () => {
    failures = ['UnknownOutcomeError', 'InvalidIndexTypeError'];
    await expect(work(never)).rejects.toMatchObject({ code: 'InvalidIndexTypeError' });
  });

  test.each<ErrorCode>(['QueryTimeoutError', 'InternalError', 'BucketNotFoundError', 'HookFailedError'])(
    'stays unknown when the second try ends with %s, which is of that try alone',
    async (code) => {
      failures = ['UnknownOutcomeError', code];
      await expect(work(never)).rejects.toMatchObject({ code: 'UnknownOutcomeError' });
      expect(asked).toHaveLength(2);
    },
  );

  test('stays unknown where what is there cannot be read', async () => {
    const objects = new Objects(caller);
    failures = ['UnknownOutcomeError', 'EtagConflictError', 'QueryTimeoutError'];
    await expect(objects.put('b', 'k', { n: 1 }, { etag: null })).rejects.toMatchObject({
      code: 'UnknownOutcomeError',
    });
    expect(asked.map(({ rpc }) => rpc)).toEqual(['putObject', 'putObject', 'getObject']);
  });
});

test('the request in force travels with the call', async () => {
  const trace = newTrace();
  await withTrace(trace, () => work());
  expect(asked[0]?.args).toEqual(['arg', { req_id: trace.requestId, traceparent: trace.traceparent }]);
  await work();
  expect(asked[1]?.args).toEqual(['arg', {}]);
});

test('the server with the fewest calls is taken', async () => {
  await Promise.all(Array.from({ length: 100 }, () => work()));
  const first = asked.filter((a) => a.server === 0).length;
  expect(first).toBe(50);
});

test('servers that all are gone, and come back', async () => {
  const ports = fast.map((server) => server.port);
  await Promise.all(fast.map((server) => server.close(0)));
  const calls = Array.from({ length: 20 }, () => work(never));
  fast = [
    await FastServer.listen({
      rpcs: { work: async ({ send }) => send(['back']) },
      log,
      host: '127.0.0.1',
      port: ports[0] ?? 0,
    }),
  ];
  expect((await Promise.all(calls)).flat()).toEqual(Array(20).fill('back'));
});
