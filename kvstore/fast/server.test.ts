import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CongerError } from '../../runtime/errors.ts';
import { silentLogger } from '../../runtime/log.ts';
import type { RpcCall, RpcTable } from '../rpc.ts';
import { encodeMessage, FastDecoder, type FastMessage, status } from './codec.ts';
import { ConnectionBrokenError, FastConnection } from './connection.ts';
import { FastServer, type FastServerOptions } from './server.ts';

/** A call that the test holds open and ends itself. */
interface Held {
  readonly call: RpcCall;
  finish(error?: Error): void;
}

let server: FastServer;
let held: Held[];
let onHeld: () => void;
let onPing: () => void;
const open: { destroy(): void }[] = [];

const rpcs: RpcTable = {
  echo: async ({ args, send }) => {
    for (const arg of args) await send([arg]);
  },
  ping: async () => onPing(),
  hold: (call) =>
    new Promise((resolve, reject) => {
      held.push({ call, finish: (error) => (error ? reject(error) : resolve()) });
      onHeld();
    }),
  conflict: async () => {
    throw new CongerError('EtagConflictError', 'no', { context: { expected: 'a', actual: 'b' } });
  },
  fault: async () => {
    throw new Error('a bug');
  },
  unsendable: async ({ send }) => {
    await send([1n]);
  },
  json: async ({ args, sendJson }) => {
    await sendJson(args.map(String));
  },
  flood: async ({ args, send }) => {
    for (let i = 0; i < Number(args[0]); i++) await send(['x'.repeat(10_000)]);
  },
};

async function start(limits: FastServerOptions['limits'] = {}): Promise<void> {
  server = await FastServer.listen({ rpcs, log: silentLogger(), host: '127.0.0.1', port: 0, limits });
}

beforeEach(async () => {
  held = [];
  onHeld = () => {};
  onPing = () => {};
  await start();
});

afterEach(async () => {
  for (const each of open.splice(0)) each.destroy();
  for (const each of held) each.finish();
  await server.close(0);
});

async function client(silenceMs = 2_000): Promise<FastConnection> {
  const connection = new FastConnection({ host: '127.0.0.1', port: server.port, silenceMs });
  open.push(connection);
  await once(connection, 'connect');
  return connection;
}

async function raw(): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port: server.port, allowHalfOpen: true });
  open.push(socket);
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

/** Reads messages until `count` are there or the connection ends. */
async function read(socket: Socket, count: number): Promise<FastMessage[]> {
  const decoder = new FastDecoder(1 << 24);
  const messages: FastMessage[] = [];
  for await (const chunk of socket) {
    decoder.push(chunk);
    for (let m = decoder.next(); m !== undefined; m = decoder.next()) messages.push(m);
    if (messages.length >= count) break;
  }
  return messages;
}

function holding(count: number): Promise<void> {
  return new Promise((resolve) => {
    onHeld = () => {
      if (held.length >= count) resolve();
    };
    onHeld();
  });
}

describe('calls', () => {
  test('many in flight on one connection, answered in any order', async () => {
    const connection = await client();
    const calls = [1, 2, 3].map((n) => connection.call('hold', [n]));
    await holding(3);
    expect(await connection.call('echo', ['a', { b: 1 }, null])).toEqual(['a', { b: 1 }, null]);
    for (const { call, finish } of held.toReversed()) {
      await call.send([call.args[0]]);
      finish();
    }
    expect(await Promise.all(calls)).toEqual([[1], [2], [3]]);
  });

  test('errors keep name, message and context', async () => {
    const connection = await client();
    await expect(connection.call('conflict', [])).rejects.toMatchObject({
      code: 'EtagConflictError',
      message: 'no',
      context: { expected: 'a', actual: 'b' },
    });
    await expect(connection.call('fault', [])).rejects.toMatchObject({ code: 'InternalError' });
    await expect(connection.call('unsendable', [])).rejects.toMatchObject({ code: 'InternalError' });
    await expect(connection.call('nosuch', [])).rejects.toMatchObject({ code: 'UnsupportedError' });
    await expect(connection.call('toString', [])).rejects.toMatchObject({ code: 'UnsupportedError' });
    expect(await connection.call('echo', [1])).toEqual([1]);
  });

  test.each([1, 2] as const)('a peer of version %i is answered in its version', async (version) => {
    const socket = await raw();
    socket.write(encodeMessage(version, status.data, 9, 'echo', ['ü']));
    expect(await read(socket, 2)).toEqual([
      { version, status: status.data, msgid: 9, name: 'echo', values: ['ü'] },
      { version, status: status.end, msgid: 9, name: 'echo', values: [] },
    ]);
  });

  test.each([1, 2] as const)(
    'values that are JSON reach a peer of version %i byte for byte',
    async (version) => {
      const texts = ['{"a" : 1.0}', '"\\u00fc"', '[ 1, "日本" ]', 'null'];
      const socket = await raw();
      socket.write(encodeMessage(version, status.data, 1, 'json', texts));
      const [chunk] = (await once(socket, 'data')) as [Buffer];
      expect(chunk.toString()).toContain(`"name":"json"},"d":[${texts.join(',')}]}`);
      const connection = await client();
      expect(await connection.call('json', texts)).toEqual([{ a: 1 }, 'ü', [1, '日本'], null]);
    },
  );

  test('what node-fast says to requests without a name and to unknown names', async () => {
    const socket = await raw();
    socket.write(encodeMessage(2, status.data, 1, undefined, []));
    socket.write(encodeMessage(2, status.data, 2, 'nosuch', []));
    const [first, second] = await read(socket, 2);
    expect(first).toMatchObject({
      msgid: 1,
      status: status.error,
      error: {
        name: 'FastError',
        message: 'RPC request is not well-formed',
        info: { fastReason: 'bad_data' },
      },
    });
    expect(second).toMatchObject({
      msgid: 2,
      status: status.error,
      error: {
        name: 'FastError',
        message: 'unsupported RPC method: "nosuch"',
        info: { fastReason: 'bad_method', rpcMethod: 'nosuch' },
      },
    });
  });

  test('a request to abort is ignored, as by node-fast', async () => {
    const socket = await raw();
    socket.write(encodeMessage(2, status.error, 5, 'echo', { name: 'Abort', message: 'please' }));
    socket.write(encodeMessage(2, status.data, 6, 'echo', [1]));
    expect((await read(socket, 2)).map((m) => m.msgid)).toEqual([6, 6]);
  });
});

describe('a connection that breaks the protocol is dropped, and no other', () => {
  const ok = encodeMessage(2, status.data, 1, 'hold', []);
  const corrupt = Buffer.from(ok);
  corrupt[corrupt.length - 3] = 0;
  const giant = Buffer.from(ok);
  giant.writeUInt32BE(0xffffffff, 11);

  test.each<[string, Buffer[]]>([
    ['garbage', [Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n')]],
    ['a corrupt payload', [corrupt]],
    ['a giant length', [giant]],
    ['a message id in use', [ok, ok]],
    ['an END', [encodeMessage(2, status.end, 1, 'hold', [])]],
  ])('%s', async (_what, chunks) => {
    const bystander = await client();
    const waiting = bystander.call('hold', ['bystander']);
    await holding(1);
    const socket = await raw();
    for (const chunk of chunks) socket.write(chunk);
    await read(socket, 1);
    held[0]?.finish();
    expect(await waiting).toEqual([]);
  });

  test('a request cut off by the end of the stream', async () => {
    const socket = await raw();
    socket.end(ok.subarray(0, 20));
    expect(await read(socket, 1)).toEqual([]);
    expect(held).toHaveLength(0);
    expect(await (await client()).call('echo', [1])).toEqual([1]);
  });
});

describe('a client that goes away', () => {
  test('has its calls aborted', async () => {
    const connection = await client();
    const waiting = connection.call('hold', []);
    await holding(1);
    const [only] = held;
    if (only === undefined) throw new Error('nothing is held');
    const aborted = once(only.call.signal, 'abort');
    connection.destroy();
    await expect(waiting).rejects.toMatchObject({ name: 'ConnectionBrokenError', sent: true });
    await aborted;
    expect(() => only.call.send(['late'])).toThrow('the client is gone');
  });

  test('by an error, whose code calls are not told: it is none of PostgreSQL’s', async () => {
    const socket = await raw();
    socket.write(encodeMessage(2, status.data, 1, 'hold', []));
    await holding(1);
    const signal = held[0]?.call.signal;
    if (signal === undefined) throw new Error('nothing is held');
    const aborted = once(signal, 'abort');
    socket.resetAndDestroy();
    await aborted;
    expect(signal.reason).toMatchObject({ message: 'the client is gone', cause: { code: 'ECONNRESET' } });
    expect(signal.reason).not.toHaveProperty('code');
  });
});

describe('back pressure', () => {
  test('a client that does not read is not written to without bound', async () => {
    const socket = await raw();
    socket.pause();
    socket.write(encodeMessage(2, status.data, 1, 'hold', []));
    await holding(1);
    const [only] = held;
    if (only === undefined) throw new Error('nothing is held');
    let sent = 0;
    const flood = (async () => {
      for (; sent < 100_000; sent++) await only.call.send(['x'.repeat(10_000)]);
    })();
    flood.catch(() => {});
    // The sockets' buffers hold a few megabytes; the rest has to wait.
    let before = -1;
    while (before !== sent) {
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(sent).toBeLessThan(10_000);
    socket.destroy();
    await expect(flood).rejects.toThrow();
  });

  test('a client that never reads again is dropped', async () => {
    await server.close(0);
    await start({ stallMs: 20 });
    const socket = await raw();
    socket.pause();
    socket.write(encodeMessage(2, status.data, 1, 'hold', []));
    await holding(1);
    const [only] = held;
    if (only === undefined) throw new Error('nothing is held');
    const aborted = once(only.call.signal, 'abort');
    const flood = (async () => {
      for (;;) await only.call.send(['x'.repeat(10_000)]);
    })();
    await expect(flood).rejects.toThrow();
    await aborted;
  });

  test('requests past the limit wait in the socket, and are served in turn', async () => {
    await server.close(0);
    await start({ maxPending: 2 });
    const connection = await client();
    const calls = Array.from({ length: 7 }, (_, i) => connection.call('hold', [i]));
    for (let served = 0; served < 7; served++) {
      await holding(served + 1);
      expect(held.length).toBeLessThanOrEqual(served + 2);
      const next = held[served];
      await next?.call.send([next.call.args[0]]);
      next?.finish();
    }
    expect((await Promise.all(calls)).flat()).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  test('more requests than the client reads answers of', async () => {
    const connection = await client();
    const calls = Array.from({ length: 500 }, () => connection.call('flood', [4]));
    const answers = await Promise.all(calls);
    expect(answers.every((values) => values.length === 4)).toBe(true);
  });
});

describe('a request that is too large', () => {
  beforeEach(async () => {
    await server.close(0);
    await start({ maxRequest: 1000 });
  });

  test('is answered with the limit and its size, and the connection goes on', async () => {
    const connection = await client();
    const waiting = connection.call('hold', []);
    await holding(1);
    const args = ['x'.repeat(3_000_000)];
    const error = await connection.call('echo', args).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'InvocationError', context: { limit: 1000 } });
    expect((error as CongerError).context.bytes).toBeGreaterThan(3_000_000);
    expect((error as CongerError).message).toContain('the limit is 1000');
    expect(await connection.call('echo', ['small'])).toEqual(['small']);
    held[0]?.finish();
    expect(await waiting).toEqual([]);
  });

  test('is not kept: memory stays flat while it comes', async () => {
    const socket = await raw();
    const size = 300 * 1024 * 1024;
    const header = Buffer.from(encodeMessage(2, status.data, 1, 'echo', []).subarray(0, 15));
    header.writeUInt32BE(size, 11);
    socket.write(header);
    const zeros = Buffer.alloc(1024 * 1024);
    const before = process.memoryUsage();
    let most = 0;
    for (let sent = 0; sent < size; sent += zeros.length) {
      if (!socket.write(zeros)) await once(socket, 'drain');
      most = Math.max(most, process.memoryUsage().arrayBuffers - before.arrayBuffers);
    }
    socket.write(encodeMessage(2, status.data, 2, 'echo', ['after']));
    const [refused, after] = await read(socket, 2);
    expect(refused).toMatchObject({ msgid: 1, status: status.error, error: { name: 'InvocationError' } });
    expect(after).toMatchObject({ msgid: 2, values: ['after'] });
    // What is left to be collected is some megabytes, or more where the collector has little time.
    expect(most).toBeLessThan(size / 2);
  });

  test('with the id of a call in flight, or as an END, it breaks the protocol', async () => {
    for (const messageStatus of [status.data, status.end]) {
      const socket = await raw();
      socket.write(encodeMessage(2, status.data, 1, 'hold', []));
      socket.write(encodeMessage(2, messageStatus, 1, 'hold', ['x'.repeat(2000)]));
      expect(await read(socket, 1)).toEqual([]);
    }
  });
});

describe('many clients at once', () => {
  test('what is in flight on all connections is bounded, and what is refused says when to come again', async () => {
    await server.close(0);
    await start({ maxInFlight: 100_000 });
    const [one, other] = [await client(), await client()];
    const calls = Array.from({ length: 4 }, () => one.call('hold', ['x'.repeat(20_000)]));
    await holding(4);
    const refused = await other.call('hold', ['x'.repeat(20_000)]).catch((e: unknown) => e);
    expect(refused).toMatchObject({ code: 'OverloadedError', context: { waiting: 4, retryAfterMs: 100 } });
    held[0]?.finish();
    await calls[0];
    const admitted = other.call('hold', ['x'.repeat(20_000)]);
    await holding(5);
    for (const each of held) each.finish();
    expect(await Promise.all([...calls, admitted])).toEqual([[], [], [], [], []]);
    // One call by itself is let in however large it is.
    expect((await one.call('echo', ['x'.repeat(200_000)])).length).toBe(1);
  });

  test('the room that calls take is given back, however they end', async () => {
    await server.close(0);
    await start({ maxInFlight: 50_000 });
    const large = 'x'.repeat(20_000);
    for (let round = 1; round <= 20; round++) {
      const leaving = await client();
      const left = leaving.call('hold', [large]).catch(() => {});
      await holding(round);
      leaving.destroy();
      await left;
      held[round - 1]?.finish();
      const staying = await client();
      await expect(staying.call('conflict', [large])).rejects.toThrow();
      await expect(staying.call('nothing', [large])).rejects.toThrow();
      staying.destroy();
    }
    const [one, other] = [await client(), await client()];
    const calls = [one, other].map((connection) => connection.call('hold', [large]));
    await holding(22);
    for (const each of held) each.finish();
    expect(await Promise.all(calls)).toEqual([[], []]);
  });

  test('a connection with 10,000 requests does not starve one with a single request', async () => {
    await server.close(0);
    await start({ maxPending: 100 });
    const [greedy, modest] = [await client(), await client()];
    let answered = 0;
    const calls = Array.from({ length: 10_000 }, async () => {
      await greedy.call('hold', []);
      answered++;
    });
    await holding(100);
    // The procedure works through its calls in the order in which they came, ten at a time.
    const work = (async () => {
      for (let next = 0; next <= 10_000; next++) {
        await holding(next + 1);
        held[next]?.finish();
        if (next % 10 === 0) await turn();
      }
    })();
    await modest.call('hold', []);
    expect(answered).toBeLessThan(2000);
    await Promise.all([...calls, work]);
  });
});

describe('closing', () => {
  test('what is in flight is answered, what is new is refused, then the connection ends', async () => {
    const connection = await client();
    const waiting = connection.call('hold', []);
    await holding(1);
    const closing = server.close(5_000);
    await expect(connection.call('echo', [1])).rejects.toMatchObject({ code: 'OverloadedError' });
    const [only] = held;
    await only?.call.send(['done']);
    only?.finish();
    expect(await waiting).toEqual(['done']);
    await closing;
    await expect(connection.call('echo', [1])).rejects.toBeInstanceOf(ConnectionBrokenError);
  });

  test('a call that does not end is cut off', async () => {
    const connection = await client();
    const waiting = connection.call('hold', []);
    await holding(1);
    await Promise.all([
      server.close(10),
      expect(waiting).rejects.toMatchObject({ name: 'ConnectionBrokenError', sent: true }),
    ]);
  });
});

describe('the client’s side', () => {
  test('a server that falls silent while a call waits is noticed', async () => {
    const silent = (await import('node:net')).createServer((socket) => {
      open.push(socket);
      socket.resume();
    });
    silent.listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const address = silent.address();
    if (address === null || typeof address === 'string') throw new Error('no address');
    const connection = new FastConnection({ host: '127.0.0.1', port: address.port, silenceMs: 30 });
    open.push(connection);
    await once(connection, 'connect');
    const error = await connection.call('hold', []).catch((e: unknown) => e);
    expect(error).toMatchObject({ name: 'ConnectionBrokenError', sent: true });
    expect(String((error as Error).cause)).toContain('silent');
    silent.close();
  });

  test('a slow call on a server that lives is waited for', async () => {
    // Long: who is held up between a ping and its answer, client and server in one, is not to be taken for silent.
    const connection = await client(1_000);
    const waiting = connection.call('hold', []);
    await holding(1);
    // The server has been found alive more than once, so each of its answers counted.
    await new Promise<void>((resolve) => {
      let pings = 0;
      onPing = () => {
        if (++pings === 3) resolve();
      };
    });
    held[0]?.finish();
    expect(await waiting).toEqual([]);
  });

  test('a call on a connection that is gone was not sent', async () => {
    const connection = await client();
    connection.destroy();
    await expect(connection.call('echo', [])).rejects.toMatchObject({ sent: false });
  });
});
