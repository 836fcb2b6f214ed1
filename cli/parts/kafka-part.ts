import { connect } from 'node:net';
import { startBroker } from '../../changefeed/log/kafka/broker.ts';
import type { Part } from '../supervisor.ts';
import { guard } from './guard.ts';

/** A Kafka broker as a part of the datacenter. */
export function kafkaPart(options: {
  readonly directory: string;
  readonly port: number;
  readonly logFile: string;
  readonly say: (line: string) => void;
}): Part {
  const { directory: dir, port, logFile, say } = options;
  return {
    name: 'kafka0',
    service: 'kafka',
    stage: 0,
    stopMs: 3_000,
    log: options.logFile,
    launch: async () => {
      const broker = await startBroker({ dir, port, logFile, say });
      const dismiss = guard(broker.pid, 'TERM');
      const ended = broker.ended.then(() => {
        dismiss();
        return 'it stopped';
      });
      return {
        pid: broker.pid,
        ready: Promise.resolve(),
        ended,
        stop: () => void broker.stop(),
        kill: (signal) => void broker.kill(signal),
      };
    },
  };
}

const answerMs = 3_000;

/** @throws Error when none of the brokers that were given can be connected to */
export async function checkBrokers(brokers: readonly string[]): Promise<void> {
  const failures = await Promise.all(brokers.map((broker) => failureOf(broker)));
  if (failures.includes(undefined)) return;
  throw new Error(`no Kafka broker answers: ${failures.join('; ')}`);
}

/** Why a broker (host:port) cannot be connected to; undefined when it can. */
function failureOf(broker: string): Promise<string | undefined> {
  const at = broker.lastIndexOf(':');
  const socket = connect({ host: broker.slice(0, at), port: Number(broker.slice(at + 1)) });
  socket.setTimeout(answerMs, () => socket.destroy(new Error(`${broker} does not answer`)));
  return new Promise<string | undefined>((resolve) => {
    socket.once('connect', () => resolve(undefined));
    socket.once('error', (error) => resolve(error.message));
  }).finally(() => socket.destroy());
}
