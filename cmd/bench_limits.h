/* What this machine's processor can do at most, measured. */
#ifndef CMD_BENCH_LIMITS_H
#define CMD_BENCH_LIMITS_H

/* Bytes a second that reading memory gives; 0: no memory to measure with. */
double bench_read_bandwidth(int n_threads);
/* f32 multiplications and additions a second, from registers, with the widest
 * instructions there are. Products of bytes and of BF16 may go beyond. */
double bench_f32_flops(int n_threads);

#endif
