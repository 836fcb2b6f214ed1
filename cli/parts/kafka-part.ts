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
