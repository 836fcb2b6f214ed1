import { execFile } from 'node:child_process';
import { randomBytes, randomInt, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { z } from 'zod';
import { type Home, writeWhole } from './home.ts';
import { searchPath } from './install.ts';

const run = promisify(execFile);

export type NodeKind = 'netns' | 'simulated';

export interface ComputeNode {
  readonly uuid: string;
  readonly hostname: string;
  /** Underlay address with its prefix length. */
  readonly underlay: string;
}

const identitiesSchema = z.object({
  prefix: z.string().regex(/^[a-z][a-z0-9]{0,5}$/),
  nodes: z.array(z.object({ uuid: z.uuid(), hostname: z.string(), underlay: z.string() })),
});

export interface Identities {
  /** Begins the names of this home's namespaces and devices: two homes on one machine never share one. */
  readonly prefix: string;
  readonly nodes: readonly ComputeNode[];
}

/** The first `count` compute nodes of a home, always the same ones; those that are missing are made and written down. */
export async function identities(home: Home, count: number): Promise<Identities> {
  const text = await readFile(home.identities, 'utf8').catch(() => undefined);
  const known = text === undefined ? undefined : identitiesSchema.parse(JSON.parse(text));
  const prefix = known?.prefix ?? `c${randomBytes(2).toString('hex')}`;
  const nodes = [...(known?.nodes ?? [])];
  const third = Number(nodes[0]?.underlay.split('.')[2] ?? randomInt(0, 256));
  for (let i = nodes.length; i < count; i++) {
    const subnet = (third + Math.floor(i / 254)) % 256;
    const underlay = `10.99.${subnet}.${(i % 254) + 1}/16`;
    nodes.push({ uuid: randomUUID(), hostname: `node${i}`, underlay });
  }
  if (nodes.length !== known?.nodes.length) {
    await writeWhole(home.identities, `${JSON.stringify({ prefix, nodes }, undefined, 2)}\n`);
  }
  return { prefix, nodes: nodes.slice(0, count) };
}

const trial = [
  'ip link add trial0 type veth peer name trial1',
  'ip link add trial2 type bridge',
  'ip link add trial3 type vxlan id 1 dstport 4789 nolearning',
  'nft add table inet trial',
].join(' && ');

/** Why a compute node cannot be a network namespace here; undefined when it can. */
export async function netnsProblem(prefix: string): Promise<string | undefined> {
  if (process.platform !== 'linux') return 'network namespaces need Linux';
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  const namespace = `${prefix}trial`;
  const options = { env: { ...process.env, PATH: searchPath() } };
  try {
    await run('ip', ['netns', 'add', namespace], options);
    await run('ip', ['netns', 'exec', namespace, 'sh', '-c', trial], options);
    return undefined;
  } catch (error) {
    const text = z.object({ stderr: z.string() }).safeParse(error);
    const reason = (text.success ? text.data.stderr : String(error)).trim().split('\n')[0];
    return `network namespaces cannot be used here: ${reason}`;
  } finally {
    await run('ip', ['netns', 'del', namespace], options).catch(() => {});
  }
}
