import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';

const serversSchema = z.array(z.looseObject({ uuid: z.string(), status: z.string() }));
const page = 1000;
const lookMs = 100;

/**
 * Waits until CNAPI says of every node that it is running: from then on machines can be placed on them.
 * @returns the nodes that were not heard of in time
 */
export async function registered(
  cnapi: readonly string[],
  nodes: readonly string[],
  timeoutMs: number,
): Promise<string[]> {
  const deadline = Date.now() + timeoutMs;
  for (let at = 0; ; at++) {
    const running = await runningServers(cnapi[at % cnapi.length] ?? '').catch(() => new Set<string>());
    const missing = nodes.filter((uuid) => !running.has(uuid));
    if (missing.length === 0 || Date.now() > deadline) return missing;
    await sleep(lookMs);
  }
}

async function runningServers(url: string): Promise<Set<string>> {
  const running = new Set<string>();
  for (let offset = 0; ; offset += page) {
    const answer = await fetch(`${url}/servers?fields=uuid,status&limit=${page}&offset=${offset}`);
    const servers = serversSchema.parse(await answer.json());
    for (const { uuid, status } of servers) if (status === 'running') running.add(uuid);
    if (servers.length < page) return running;
  }
}
