import type { FastifyReply, FastifyRequest } from 'fastify';
import { CongerError } from '../../../runtime/errors.ts';

/** Answers the etag of what is sent, for a later If-Match. */
export function sendEtag(reply: FastifyReply, etag: string): void {
  void reply.header('etag', etag);
}

/**
 * @param etag of what the request is about; undefined where it is not there yet, which `""` matches
 * @throws PreconditionFailed (412) where the request's If-Match names another etag
 */
export function checkIfMatch(request: FastifyRequest, etag: string | undefined): void {
  const wanted = request.headers['if-match'];
  if (wanted === undefined || wanted === '*') return;
  const names = wanted.split(',').map((part) => part.trim().replace(/^"|"$/g, ''));
  if (names.includes(etag ?? '')) return;
  throw new CongerError('PreconditionFailed', `if-match '${wanted}' didn't match etag '${etag ?? ''}'`);
}
