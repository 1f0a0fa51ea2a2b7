# TensorRT::nvinfer, from TensorRT_ROOT (an installation, or the folder of its headers), the system's folders, or
# TensorRT_INCLUDE_DIR and TensorRT_LIBRARY. TensorRT-RTX is taken where TensorRT_ROOT holds that alone.
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h HINTS "${TensorRT_ROOT}" "$ENV{TENSORRT_ROOT}" PATH_SUFFIXES include)
find_library(TensorRT_LIBRARY NAMES nvinfer libnvinfer.so.11 libnvinfer.so.10 nvinfer_11 nvinfer_10 tensorrt_rtx
  HINTS "${TensorRT_ROOT}" "$ENV{TENSORRT_ROOT}" PATH_SUFFIXES lib lib64)

# NV_TENSORRT_MAJOR is a number, or since 10.14 the name of a macro that is one.
if(EXISTS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h")
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" defines REGEX "^#define +(NV_TENSORRT|TRT)_(MAJOR|MINOR)")
  string(REPLACE ";" "\n" defines "${defines}")
  set(numbers "")
  foreach(part MAJOR MINOR)
    string(REGEX MATCH "#define +(NV_TENSORRT_${part}|TRT_${part}_[A-Z]+) +([0-9]+)" ignored "${defines}")
    list(APPEND numbers "${CMAKE_MATCH_2}")
  endforeach()
  list(JOIN numbers "." TensorRT_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR VERSION_VAR TensorRT_VERSION
  REASON_FAILURE_MESSAGE "Name its installation with -DTensorRT_ROOT=DIR.")
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY)
if(TensorRT_FOUND AND NOT TARGET TensorRT::nvinfer)
  add_library(TensorRT::nvinfer UNKNOWN IMPORTED)
  set_target_properties(TensorRT::nvinfer PROPERTIES
    IMPORTED_LOCATION "${TensorRT_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR}")
endif()
