import { CongerError, type FieldError } from '../../../runtime/errors.ts';
import { validationError, validationStyles } from '../../common/http.ts';

/** NAPI's errors, in Triton's words. */

export function invalid(field: string, message: string): CongerError {
  return invalidAll([{ field, code: 'InvalidParameter', message }]);
}

export function invalidAll(errors: readonly FieldError[]): CongerError {
  return validationError(validationStyles.napi, errors);
}

export function duplicate(field: string): CongerError {
  return invalidAll([{ field, code: 'Duplicate', message: 'Already exists' }]);
}

export function notFound(what: string): CongerError {
  return new CongerError('ResourceNotFound', `${what} not found`);
}

interface User {
  readonly type: string;
  readonly id: string;
}

/** What is to go is used by others. `errors` has Triton's form {type, id, code, message}. */
export function inUse(what: string, users: readonly User[]): CongerError {
  const errors = users.map(({ type, id }) => ({
    type,
    id,
    code: 'UsedBy',
    message: `In use by ${type} "${id}"`,
  }));
  return new CongerError('InUse', `${what} is in use`, { context: { errors } });
}

export function subnetFull(networkUuid: string): CongerError {
  return new CongerError('SubnetFull', 'no more free IPs', { context: { network_uuid: networkUuid } });
}
