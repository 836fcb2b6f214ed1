import { connect } from 'node:net';
import { messageOf } from '../../../runtime/errors.ts';
import type { Part } from './endpoints.ts';

export interface Health extends Omit<Part, 'check'> {
  readonly healthy: boolean;
  /** What is wrong; null: nothing. */
  readonly detail: string | null;
}

const timeoutMs = 2_000;

/** Asks an instance how it is; an answer that does not come within 2 s is a wrong one. */
export async function healthOf({ check, ...part }: Part): Promise<Health> {
  const detail = await problemOf(part, check);
  return { ...part, healthy: detail === null, detail };
}

async function problemOf(part: Omit<Part, 'check'>, check: Part['check']): Promise<string | null> {
  if (part.address === null || check === 'process') return part.pid === null ? 'not running' : null;
  try {
    if (check === 'connect') await reach(part.address);
    else await ping(part.address);
    return null;
  } catch (error) {
    const cause = (error instanceof Error && error.cause) || error;
    const refused = cause instanceof Error && 'code' in cause && cause.code === 'ECONNREFUSED';
    return refused ? (part.pid === null ? 'not running' : 'starting') : messageOf(cause);
  }
}

async function ping(address: string): Promise<void> {
  const answer = await fetch(`http://${address}/ping`, { signal: AbortSignal.timeout(timeoutMs) });
  await answer.arrayBuffer();
  if (!answer.ok) throw new Error(`answers ${answer.status}`);
}

async function reach(address: string): Promise<void> {
  const { hostname, port } = new URL(`tcp://${address}`);
  const socket = connect({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || 5432) });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.setTimeout(timeoutMs, () => reject(new Error('no answer in time')));
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
  } finally {
    socket.destroy();
  }
}
