import { randomBytes, randomUUID } from 'node:crypto';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../runtime/log.ts';
import { Agent, type AgentOptions } from '../agent.ts';
import { cleanup } from '../driver/cleanup.ts';
import { run } from '../driver/exec.ts';
import { machineNamespace } from '../driver/names.ts';
import { NetnsDriver } from '../driver/netns.ts';
import type { FakeDatacenter } from './datacenter.ts';
import type { TestVm } from './objects.ts';

/** Why tests with real packets cannot run here, or null if they can. With CI set they have to. */
export function whyNoKernel(): string | null {
  if (process.env.CI) return null;
  if (process.getuid?.() !== 0) return 'not root';
  for (const tool of ['ip', 'nft', 'ping', 'nsenter', 'flock']) {
    const found = (process.env.PATH ?? '').split(':').some((folder) => {
      try {
        accessSync(join(folder, tool), constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
    if (!found) return `no ${tool}`;
  }
  return null;
}

export interface TestNode {
  readonly uuid: string;
  readonly underlay: string;
  readonly home: string;
}

/** Nodes in namespaces of their own, on one underlay. */
export class TestNodes {
  readonly prefix = `t${randomBytes(2).toString('hex')}`;
  readonly nodes: TestNode[] = [];
  readonly #agents = new Map<string, Agent>();
  readonly #datacenter: FakeDatacenter;

  constructor(datacenter: FakeDatacenter) {
    this.#datacenter = datacenter;
  }

  get underlays(): Map<string, string> {
    return new Map(this.nodes.map(({ uuid, underlay }) => [uuid, underlay]));
  }

  async add(): Promise<TestNode> {
    const home = await mkdtemp(join(tmpdir(), 'conger-agent-'));
    const node = { uuid: randomUUID(), underlay: `10.99.0.${this.nodes.length + 1}`, home };
    this.nodes.push(node);
    return node;
  }

  async start(node: TestNode, more: Partial<AgentOptions> = {}): Promise<Agent> {
    const underlay = `${node.underlay}/16`;
    const agent = new Agent({
      nodeUuid: node.uuid,
      hostname: 'node',
      datacenter: 'test',
      underlay,
      home: node.home,
      prefix: this.prefix,
      kind: 'netns',
      cnapi: [this.#datacenter.url],
      vmapi: [this.#datacenter.url],
      host: '127.0.0.1',
      port: 0,
      driver: new NetnsDriver({ prefix: this.prefix, nodeUuid: node.uuid, underlay }),
      log: silentLogger(),
      // A test that looks at what it has broken must be the first to look.
      auditMs: 3_600_000,
      ...more,
    });
    this.#agents.set(node.uuid, agent);
    await agent.start();
    return agent;
  }

  async stop(node: TestNode): Promise<void> {
    await this.#agents.get(node.uuid)?.close();
    this.#agents.delete(node.uuid);
  }

  namespaceOf(vm: TestVm): string {
    return machineNamespace(this.prefix, vm.uuid);
  }

  nodeNamespace(node: TestNode): string {
    return `${this.prefix}-node-${node.uuid.slice(0, 8)}`;
  }

  /** Whether an echo from one VM to an address is answered, which a busy machine may take its time for. */
  pings(from: TestVm, to: string): Promise<boolean> {
    return this.#echoes(from, to, 20);
  }

  /** Whether none comes back within a second. */
  async pingsInVain(from: TestVm, to: string): Promise<boolean> {
    return !(await this.#echoes(from, to, 1));
  }

  #echoes(from: TestVm, to: string, seconds: number): Promise<boolean> {
    const ping = ['ping', '-n', '-c', '1', '-W', String(seconds), to];
    return run('ip', ['netns', 'exec', this.namespaceOf(from), ...ping]).then(
      () => true,
      () => false,
    );
  }

  async end(): Promise<void> {
    await Promise.all([...this.#agents.values()].map((agent) => agent.close()));
    await cleanup(this.prefix);
    await Promise.all(this.nodes.map(({ home }) => rm(home, { recursive: true, force: true })));
  }
}
