import type { Config } from '../../runtime/config.ts';
import type { Logger } from '../../runtime/log.ts';
import type { LogReader, LogWriter } from '../types.ts';

/** The log that the configuration names: Kafka where brokers are given, else the embedded one in PostgreSQL. */
export async function openLogWriter(config: Config, log: Logger): Promise<LogWriter> {
  if (config.kafka.length > 0) {
    const { createKafkaWriter } = await import('./kafka/index.ts');
    return createKafkaWriter(kafkaOptions(config, log));
  }
  const { createEmbeddedWriter } = await import('./embedded/index.ts');
  return createEmbeddedWriter({
    postgres: config.postgres,
    partitions: config.partitions,
    retainMs: config.logRetainHours * 3_600_000,
    retainRecords: config.logRetainRecords,
    log,
  });
}

/** The readers' side of the same log. The caller closes it. */
export async function openLogReader(config: Config, log: Logger): Promise<LogReader> {
  if (config.kafka.length > 0) {
    const { createKafkaReader } = await import('./kafka/index.ts');
    return createKafkaReader(kafkaOptions(config, log));
  }
  const { createEmbeddedReader } = await import('./embedded/index.ts');
  return createEmbeddedReader({ postgres: config.postgres, partitions: config.partitions, log });
}

function kafkaOptions(config: Config, log: Logger) {
  return {
    brokers: config.kafka,
    topic: config.kafkaTopic,
    partitions: config.partitions,
    replicas: config.kafkaReplicas,
    retainMs: config.logRetainHours * 3_600_000,
    ...(config.logRetainBytes === 0 ? {} : { retainBytes: config.logRetainBytes }),
    log,
  };
}
