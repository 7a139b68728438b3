/* Numbers of four bytes, big-endian, as they stand in messages. */
#ifndef BYTES_H
#define BYTES_H

#include <stdint.h>

static inline uint32_t number_at(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void put_number(unsigned char *at, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(number >> (24 - 8 * i));
}

#endif
