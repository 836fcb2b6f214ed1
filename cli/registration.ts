import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';

const serversSchema = z.array(z.looseObject({ uuid: z.string(), status: z.string() }));
const page = 1000;
const lookMs = 100;
/** An instance that hangs takes the connection and never answers: then the next one is asked. */
const answerMs = 5_000;

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
    const left = Math.max(1, deadline - Date.now());
    const signal = AbortSignal.timeout(Math.min(answerMs, left));
    const running = await runningServers(cnapi[at % cnapi.length] ?? '', signal).catch(
      () => new Set<string>(),
    );
    const missing = nodes.filter((uuid) => !running.has(uuid));
    if (missing.length === 0 || Date.now() > deadline) return missing;
    await sleep(lookMs);
  }
}

async function runningServers(url: string, signal: AbortSignal): Promise<Set<string>> {
  const running = new Set<string>();
  for (let offset = 0; ; offset += page) {
    const query = `fields=uuid,status&limit=${page}&offset=${offset}`;
    const answer = await fetch(`${url}/servers?${query}`, { signal });
    const servers = serversSchema.parse(await answer.json());
    for (const { uuid, status } of servers) if (status === 'running') running.add(uuid);
    if (servers.length < page) return running;
  }
}
