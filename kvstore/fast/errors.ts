import { CongerError, type ErrorCode, errorTable, messageOf } from '../../runtime/errors.ts';
import type { WireError } from './codec.ts';

/**
 * Errors on the wire. Clients match on `name`, look into `context` (Moray's word for it) or `info` (node-fast's): both
 * carry the same.
 */
export function toWire(error: unknown): WireError {
  if (error instanceof CongerError) {
    return { name: error.name, message: error.message, context: error.context, info: error.context };
  }
  return { name: 'InternalError', message: messageOf(error), context: {}, info: {} };
}

/** The two errors of the protocol itself that a request is answered with, as node-fast's server words them. */
export function badRequest(msgid: number): WireError {
  return fastError('RPC request is not well-formed', { fastReason: 'bad_data', rpcMsgid: msgid });
}

export function badMethod(msgid: number, name: string): WireError {
  const info = { fastReason: 'bad_method', rpcMethod: name, rpcMsgid: msgid };
  return fastError(`unsupported RPC method: "${name}"`, info);
}

function fastError(message: string, info: Readonly<Record<string, unknown>>): WireError {
  return { name: 'FastError', message, context: {}, info };
}

/**
 * The error as this side knows it. A name that the registry lacks becomes InternalError, or HookFailedError where a hook
 * gave it, and is kept in the context.
 */
export function fromWire(wire: WireError): CongerError {
  const context = { ...record(wire.info), ...record(wire.context) };
  if (isErrorCode(wire.name)) return new CongerError(wire.name, wire.message, { context });
  if (wire.name === 'FastError' && context.fastReason === 'bad_method') {
    return new CongerError('UnsupportedError', wire.message, { context });
  }
  const code = typeof context.hook === 'string' ? 'HookFailedError' : 'InternalError';
  return new CongerError(code, `${wire.name}: ${wire.message}`, { context: { ...context, name: wire.name } });
}

function isErrorCode(name: string): name is ErrorCode {
  return Object.hasOwn(errorTable, name);
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {};
}
