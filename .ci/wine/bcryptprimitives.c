/*
 * Rust's std takes its random numbers from ProcessPrng, and the Wine of older systems has no bcryptprimitives.dll.
 * This stands in for it in tests, and nowhere else.
 */
#include <windows.h>
#include <ntsecapi.h>

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size)
{
    const SIZE_T most = 65536; /* RtlGenRandom counts in 32 bits. */

    while (size > 0) {
        SIZE_T part = size < most ? size : most;

        if (!RtlGenRandom(data, (ULONG)part))
            return FALSE;
        data += part;
        size -= part;
    }
    return TRUE;
}
