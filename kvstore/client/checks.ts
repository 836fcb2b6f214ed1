import { CongerError } from '../../runtime/errors.ts';

const bucketName = /^[a-zA-Z][a-zA-Z0-9_]{0,62}$/;

export function checkBucketName(name: string): void {
  if (typeof name !== 'string' || !bucketName.test(name)) {
    throw new CongerError('InvalidBucketNameError', `${name} is not a valid bucket name`);
  }
}

/** PostgreSQL's text holds any character but NUL. */
export function checkKey(key: string): void {
  if (typeof key !== 'string' || key === '' || key.includes('\0')) {
    throw new CongerError('InvocationError', 'a key is a string that is not empty and holds no NUL');
  }
}

export function checkFilter(filter: string): void {
  if (typeof filter !== 'string' || filter === '') {
    throw new CongerError('InvalidQueryError', 'a filter is a string that is not empty');
  }
}

export function checkValue(value: unknown): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CongerError('InvocationError', 'a value is an object');
  }
}
