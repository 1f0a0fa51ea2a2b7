// Marks the C functions that the library shows; exports.map hides everything else.
#ifndef MEMVP_EXPORT_H
#define MEMVP_EXPORT_H

#ifdef _WIN32
#define MEMVP_EXPORT extern "C" __declspec(dllexport)
#else
#define MEMVP_EXPORT extern "C" __attribute__((visibility("default")))
#endif

#endif // MEMVP_EXPORT_H
