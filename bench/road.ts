import { randomUUID } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Datacenter, startDatacenter } from '../cli/datacenter.ts';
import { kafkaAvailable } from '../test/fixtures/kafka.ts';
import { agentGet, agentUrls, type NodeState } from '../test/story/nodes.ts';
import { quantile } from './quantile.ts';

/**
 * From an API call to a node's kernel, on both logs: a firewall rule is changed by PUT /rules/:uuid, and the time is
 * taken from before the call until the agent's nft has returned. Everything shares the machine.
 * Usage: node dist/bench/road.js [changes]; as root on Linux
 */

const changes = Number(process.argv[2] ?? 200);
const pauseMs = 50;

const table = [await measure('embedded', false)];
if (await kafkaAvailable()) table.push(await measure('Kafka, one broker', true));
console.table(table);
process.exit();

async function measure(log: string, kafka: boolean) {
  const home = await mkdtemp(join(tmpdir(), 'conger-bench-'));
  const datacenter = await startDatacenter({ home, kafka, nodes: 2, portBase: 'free' });
  try {
    const rule = await prepare(datacenter);
    const took: { total: number; answered: number; kernel: number }[] = [];
    for (let port = 1; port <= changes; port++) {
      took.push(await change(datacenter, rule, port));
      await sleep(pauseMs);
    }
    const of = (pick: (sample: (typeof took)[number]) => number) => took.map(pick).sort((a, b) => a - b);
    const total = of((sample) => sample.total);
    return {
      log,
      changes,
      'call to kernel p50 ms': quantile(total, 0.5),
      'p99 ms': quantile(total, 0.99),
      'call answered p50 ms': quantile(
        of((sample) => sample.answered),
        0.5,
      ),
      'agent told to kernel p50 ms': quantile(
        of((sample) => sample.kernel),
        0.5,
      ),
    };
  } finally {
    await datacenter.destroy();
  }
}

/** A machine with its firewall on, and a rule for it. */
async function prepare(datacenter: Datacenter): Promise<string> {
  const { napi, vmapi, fwapi, nodes } = datacenter.endpoints;
  const owner = randomUUID();
  await call('POST', `${napi[0]}/fabrics/${owner}/vlans`, { name: 'bench', vlan_id: 4 });
  const network = await call('POST', `${napi[0]}/fabrics/${owner}/vlans/4/networks`, {
    name: 'bench',
    subnet: '10.7.0.0/24',
    provision_start_ip: '10.7.0.10',
    provision_end_ip: '10.7.0.200',
  });
  await call('POST', `${vmapi[0]}/vms?sync=true`, {
    owner_uuid: owner,
    brand: 'joyent-minimal',
    ram: 64,
    image_uuid: randomUUID(),
    server_uuid: nodes[0]?.uuid,
    firewall_enabled: true,
    networks: [{ uuid: network.uuid }],
  });
  const rule = { rule: 'FROM any TO all vms ALLOW tcp PORT 22', owner_uuid: owner, enabled: true };
  return (await call('POST', `${fwapi[0]}/rules`, rule)).uuid as string;
}

async function change(datacenter: Datacenter, rule: string, port: number) {
  const [agent] = await agentUrls(datacenter);
  const requestId = randomUUID();
  const begun = Date.now();
  await call(
    'PUT',
    `${datacenter.endpoints.fwapi[0]}/rules/${rule}`,
    { rule: `FROM any TO all vms ALLOW tcp PORT ${port}` },
    requestId,
  );
  const answered = Date.now() - begun;
  for (;;) {
    const { timings } = await agentGet<NodeState>(agent!, 'state');
    const timing = timings.find((t) => t.requestId === requestId && t.key?.startsWith('firewall-rule/'));
    if (timing !== undefined)
      return { total: timing.applied - begun, answered, kernel: timing.applied - timing.received };
    await sleep(10);
  }
}

async function call(
  method: string,
  url: string,
  body?: unknown,
  requestId = randomUUID(),
): Promise<Record<string, unknown>> {
  const answer = await fetch(url, {
    method,
    headers: { 'content-type': 'application/json', 'x-request-id': requestId },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${text}`);
  return JSON.parse(text) as Record<string, unknown>;
}
