import { runService } from '../common/service.ts';
import { setupVmapi } from './setup.ts';

runService('vmapi', (context) => setupVmapi(context));
