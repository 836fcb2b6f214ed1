import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../runtime/log.ts';
import { Agent, type AgentOptions } from '../agent.ts';
import { SimulatedDriver } from '../driver/simulated.ts';

/** An agent on a simulated node, that can be ended and started anew on the same disk and kernel. */
export class SimulatedNode {
  readonly uuid: string;
  readonly driver: SimulatedDriver;
  #home = '';
  #agent: Agent | null = null;

  constructor(driver = new SimulatedDriver(), uuid: string = randomUUID()) {
    this.driver = driver;
    this.uuid = uuid;
  }

  get home(): string {
    return this.#home;
  }

  get agent(): Agent {
    if (this.#agent === null) throw new Error('the agent does not run');
    return this.#agent;
  }

  async start(urls: readonly string[], more: Partial<AgentOptions> = {}): Promise<Agent> {
    if (this.#home === '') this.#home = await mkdtemp(join(tmpdir(), 'conger-agent-'));
    this.#agent = new Agent({
      nodeUuid: this.uuid,
      hostname: 'node',
      datacenter: 'test',
      underlay: '10.99.0.1/16',
      home: this.#home,
      prefix: 'sim',
      kind: 'simulated',
      cnapi: urls,
      vmapi: urls,
      host: '127.0.0.1',
      port: 0,
      driver: this.driver,
      log: silentLogger(),
      ...more,
    });
    await this.#agent.start();
    return this.#agent;
  }

  async stop(): Promise<void> {
    await this.#agent?.close();
    this.#agent = null;
  }

  async end(): Promise<void> {
    await this.stop();
    if (this.#home !== '') await rm(this.#home, { recursive: true, force: true });
  }
}

/** Holds something up until it is opened. */
export class Gate {
  #open: () => void = () => {};
  readonly opened = new Promise<void>((resolve) => {
    this.#open = resolve;
  });

  open(): void {
    this.#open();
  }
}
