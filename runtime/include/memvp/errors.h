// The ways a call can end without success. Each message is written for whoever runs the app: what is wrong, where, and
// what to do about it; for the same fault it is the one that memvp-export gives in Python.
#pragma once

#include <stdexcept>
#include <string>

namespace memvp
{

// Any of the below.
class Error : public std::runtime_error
{
public:
    using std::runtime_error::runtime_error;
};

// The work was done and its result is unusable: values that are not finite.
class VerdictError : public Error
{
public:
    using Error::Error;
};

// Wrong use, or a file that cannot be what it is given as.
class InputError : public Error
{
public:
    using Error::Error;
};

// This machine lacks something: a GPU, memory, another TensorRT, the plugin library, a permission.
class EnvironmentLack : public Error
{
public:
    using Error::Error;
};

// The engine was built for other shapes than these; they may be right for the model.
class NoProfile : public InputError
{
public:
    using InputError::InputError;
};

} // namespace memvp
