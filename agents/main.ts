import { resolve } from 'node:path';
import { runProcess } from '../runtime/process.ts';
import { Agent } from './agent.ts';
import { NetnsDriver } from './driver/netns.ts';
import { SimulatedDriver } from './driver/simulated.ts';

await runProcess('agent', async ({ config, log, shutdown }) => {
  const { nodeUuid, nodeUnderlay: underlay, nodePrefix: prefix, nodeKind: kind } = config;
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(nodeUuid))
    throw new Error(`CONGER_NODE is not a UUID: ${nodeUuid}`);
  if (config.nodeHome === '') throw new Error('CONGER_NODE_HOME is not set');
  const agent = new Agent({
    nodeUuid,
    hostname: config.nodeHostname || `node-${nodeUuid.slice(0, 8)}`,
    datacenter: config.datacenter,
    underlay,
    home: resolve(config.nodeHome),
    prefix,
    kind,
    cnapi: config.cnapi,
    vmapi: config.vmapi,
    host: config.host,
    port: config.port,
    driver: kind === 'netns' ? new NetnsDriver({ prefix, nodeUuid, underlay }) : new SimulatedDriver(),
    log,
  });
  shutdown.add('agent', () => agent.close());
  return { urls: [await agent.start()] };
});
