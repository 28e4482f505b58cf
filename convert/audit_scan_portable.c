#define LMC_SCAN lmc_scan_portable
#include "convert/audit_scan.h"
