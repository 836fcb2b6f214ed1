import type { LogReader, LogWriter } from '../../types.ts';
import { EmbeddedReader, type EmbeddedReaderOptions } from './reader.ts';
import { EmbeddedWriter, type EmbeddedWriterOptions } from './writer.ts';

/** The log in PostgreSQL itself, beside the KV tier: nothing more to run, and as durable. */
export function createEmbeddedWriter(options: EmbeddedWriterOptions): LogWriter {
  return new EmbeddedWriter(options);
}

export function createEmbeddedReader(options: EmbeddedReaderOptions): Promise<LogReader> {
  return EmbeddedReader.open(options);
}
