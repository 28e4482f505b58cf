#if defined(__x86_64__)
#define LMC_SCAN lmc_scan_avx512
#include "convert/audit_scan.h"
#endif
