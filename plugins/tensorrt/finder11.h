// TensorRT 11's logger, seen from a library that was built with the headers of 10.
#ifndef MEMVP_FINDER11_H
#define MEMVP_FINDER11_H

#include <NvInfer.h>

#include <cxxabi.h>
#include <typeinfo>

namespace memvp
{

// TensorRT 11 derives ILogger and ILoggerFinder from IVersionedInterface, which puts their functions into other slots.
// A library built with the headers of 10 serves 11 as well, so it must see which it has before it calls either. All
// other classes that a plugin meets have kept their layout. Neither may stand in an anonymous namespace: there the
// compiler would know that nothing implements it, and call nothing.
struct Logger11 : nvinfer1::IVersionedInterface
{
    virtual void log(nvinfer1::ILogger::Severity severity, char const* message) noexcept = 0;
};

struct Finder11 : nvinfer1::IVersionedInterface
{
    virtual Logger11* findLogger() = 0;
};

// The finder as TensorRT 11's, or null where it is TensorRT 10's. dynamic_cast cannot tell: it looks for the class that
// the pointer is declared as among the object's bases, and in 11 that class has another name.
inline Finder11* asFinder11(nvinfer1::ILoggerFinder* finder) noexcept
{
    void* base = finder;
    auto const& versioned = static_cast<abi::__class_type_info const&>(typeid(nvinfer1::IVersionedInterface));
    return typeid(*finder).__do_upcast(&versioned, &base) ? static_cast<Finder11*>(base) : nullptr;
}

} // namespace memvp

#endif // MEMVP_FINDER11_H
