import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import {
  FastDecoder,
  type FastMessage,
  FastProtocolError,
  type Oversized,
  status,
} from '../../../kvstore/fast/codec.ts';
import { FastServer } from '../../../kvstore/fast/server.ts';
import type { RpcTable } from '../../../kvstore/rpc.ts';
import { CongerError } from '../../../runtime/errors.ts';
import { silentLogger } from '../../../runtime/log.ts';
import type { Target } from '../target.ts';
import { cut, framingWords, generateStream, mendFrames } from './framing.ts';

const limit = 8 * 1024;

/** What calls are under way, over all connections. */
let calls = 0;

const rpcs: RpcTable = {
  echo: ({ args, send }) => counted(async () => send(args)),
  later: ({ args, send }) =>
    counted(async () => {
      await turn();
      for (const arg of args) await send([arg]);
    }),
  refuse: () =>
    counted(async () => {
      throw new CongerError('InvocationError', 'no', { context: { a: 1 } });
    }),
};

async function counted(work: () => Promise<void>): Promise<void> {
  calls++;
  try {
    await work();
  } finally {
    calls--;
  }
}

/** The calls that `input` makes as far as it can be read, and whether it breaks the protocol anywhere. */
function requestsOf(input: Buffer): { ids: number[]; broken: boolean } {
  const ids: number[] = [];
  let ended = false;
  // What is too long is skipped, and answered all the same.
  const report = ({ status: kind, msgid }: Oversized) => {
    if (kind === status.data) ids.push(msgid);
    ended ||= kind === status.end;
  };
  const decoder = new FastDecoder(limit, { upTo: 1024 ** 3, report });
  try {
    decoder.push(input);
    for (let m = decoder.next(); m !== undefined; m = decoder.next()) {
      if (ended || m.status === status.end) return { ids, broken: true };
      if (m.status === status.data) ids.push(m.msgid);
    }
    decoder.end();
    return { ids, broken: ended || new Set(ids).size < ids.length };
  } catch (error) {
    if (!(error instanceof FastProtocolError)) throw error;
    return { ids, broken: true };
  }
}

let server: FastServer | undefined;
let escaped: unknown;
const onEscaped = (error: unknown) => {
  escaped = error;
};

async function listening(): Promise<FastServer> {
  if (server === undefined) {
    server = await FastServer.listen({
      rpcs,
      log: silentLogger(),
      host: '127.0.0.1',
      port: 0,
      limits: { maxRequest: limit, maxPending: 2 },
    });
    process.on('unhandledRejection', onEscaped);
    process.on('uncaughtException', onEscaped);
  }
  return server;
}

/** Sends `input` and reads all that is answered, up to the end of the connection. */
async function converse(port: number, input: Buffer, answersWanted: number): Promise<FastMessage[]> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  socket.on('error', () => {});
  socket.setTimeout(10_000, () => socket.destroy());
  const closed = once(socket, 'close');
  const decoder = new FastDecoder(64 * 1024);
  const messages: FastMessage[] = [];
  let answers = 0;
  socket.on('data', (chunk) => {
    decoder.push(chunk);
    for (let m = decoder.next(); m !== undefined; m = decoder.next()) {
      messages.push(m);
      if (m.status !== status.data) answers++;
    }
    if (answers === answersWanted) socket.end();
  });
  await once(socket, 'connect');
  for (const chunk of cut(input).slice(0, 50)) {
    // Answered in full, or cut off, before all of it was sent.
    if (!socket.writable) break;
    socket.write(chunk);
    await turn();
  }
  if (answers >= answersWanted) socket.end();
  await closed;
  return messages;
}

/** A server at work: any bytes on a connection. */
export const session: Target = {
  name: 'session',
  notation: 'hex',
  modules: /\/kvstore\/fast\//,
  words: [...framingWords, '"name":"later"', '"name":"refuse"', '"name":"constructor"'],
  generate: (random) => generateStream(random, ['echo', 'later', 'refuse', 'nosuch', '__proto__']),
  mend: mendFrames,
  async run(input) {
    const { port } = await listening();
    // What is longer than the pieces sent is another input.
    const sent = Buffer.concat(cut(input).slice(0, 50));
    const { ids, broken } = requestsOf(sent);
    const messages = await converse(port, input, broken ? 0 : ids.length);
    const answered = messages.filter((m) => m.status !== status.data).map((m) => m.msgid);
    for (const msgid of new Set(answered)) {
      const count = (list: number[]) => list.filter((id) => id === msgid).length;
      assert(count(answered) <= count(ids), `more answers than calls of msgid ${msgid}`);
    }
    if (!broken) assert.deepEqual(answered.sort(), ids.sort(), 'not every call was answered once');
    if (escaped !== undefined) throw escaped;
  },
  async close() {
    if (server === undefined) return;
    const { connections } = server;
    await server.close(1_000);
    server = undefined;
    process.off('unhandledRejection', onEscaped);
    process.off('uncaughtException', onEscaped);
    assert.equal(calls, 0, 'calls are still under way');
    assert(connections <= 1, `${connections} connections are left`);
  },
};
