/* XXH3-64 with seed 0 and the default secret. */
#ifndef XXH3_H
#define XXH3_H

#include <stddef.h>
#include <stdint.h>

uint64_t xxh3_64(const void *data, size_t size);

#endif /* XXH3_H */
